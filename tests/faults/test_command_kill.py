"""A command killed at any moment and run again ends like an uninterrupted one, and removes leftovers."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.test_mutants import OTHER, Workshop


class Killed(NamedTuple):
    """A command, and the files by which two calls of it are compared."""

    stock: str
    script: str
    words: str
    written: tuple[str, ...]


MERGE = "--run run --output made"
COMMANDS = {
    "merge": Killed("language model", "merge_adapter.py", MERGE, ("made/*",)),
    "gguf": Killed("language model", "merge_adapter.py", f"{MERGE} --format gguf --gguf_type q8_0", ("made/*",)),
    "as_lora": Killed("language model", "merge_adapter.py", f"{MERGE} --as_lora 8", ("made/*",)),
    "suite": Killed("suite", "benchmark.py", "--config suite.yaml --seeds 1,2 --output_dir made",
                    ("made/runs/*/results.json",)),  # the tables hold measured memory
    "evaluate": Killed("language model", "evaluate_model.py", "--run run --set gsm8k@test[:60] --output_dir made "
                       "generation.batch_size=1 generation.max_new_tokens=24", ("made/**/*",)),
    "infer": Killed("rows", "inference.py", "--run STOCK/language_model/run --input_file sums.jsonl "
                    "--output_file made.jsonl --batch_size 1 --max_new_tokens 24", ("made.jsonl",)),
    "classify": Killed("rows", "inference.py", "--run STOCK/classifier/run --input_file labelled.parquet "
                       "--output_file made.csv", ("made.csv",)),
    "report": Killed("classifier", OTHER, "report run results.formats=[html,svg,png]",
                     ("run/report.html", "run/curves.*")),
    "compare": Killed("language model", OTHER, "compare run STOCK/full/run --json", ()),
    "push": Killed("language model", OTHER, "push run me/x --dry-run --json", ()),
}  # fmt: skip
VOLATILE = re.compile(r"second|_s$|per_s|time|date|peak|_gb|elapsed|output_dir|provenance|fingerprint$")


@pytest.fixture(scope="module")
def workshop(command_runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(command_runner, tmp_path_factory.mktemp("killed"))
    made.stock_all()
    return made


def _keep(tree: Any) -> Any:
    """Remove values that depend on the clock."""
    if isinstance(tree, dict):
        return {key: _keep(value) for key, value in tree.items() if not VOLATILE.search(key)}
    return [_keep(each) for each in tree] if isinstance(tree, list) else tree


def _read(folder: Path, killed: Killed, said: str) -> dict[str, Any]:
    found = {"said": _keep(json.loads(said[said.index("{") :]))} if "--json" in killed.words else {}
    for file in sorted(each for pattern in killed.written for each in folder.glob(pattern)):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".json":
            found[name] = _keep(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            found[name] = [_keep(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.is_file() and file.suffix != ".lock":
            found[name] = file.read_bytes()
    return found


def _list_leftovers(folder: Path) -> list[str]:
    return [each.name for each in folder.rglob("*") if re.search(r"^tmp|partial|^\..*-\d+(\.\w+)?$", each.name)]


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, tuple[dict[str, Any], float]]:
    """Return a cache of what each command produces uninterrupted, and in how many seconds."""
    return {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_a_random_moment(name: str, number: int, workshop: Workshop, uninterrupted: dict[str, Any]) -> None:
    killed, draw = COMMANDS[name], random.Random(f"{name} {number}")
    if name not in uninterrupted:
        folder, started = workshop.fresh(killed.stock), time.monotonic()
        uninterrupted[name] = _finish(workshop, killed, folder), time.monotonic() - started
    expected, seconds = uninterrupted[name]
    folder, share = workshop.fresh(killed.stock), draw.uniform(0.05, 1)
    while not workshop.call_and_kill(killed.script, killed.words, folder, seconds * share):
        folder, share = workshop.fresh(killed.stock), share * 0.8
    assert _finish(workshop, killed, folder) == expected


def _finish(workshop: Workshop, killed: Killed, folder: Path) -> dict[str, Any]:
    """Run a command to its end and return what it made."""
    code, said = workshop.call(killed.script, killed.words, folder)
    assert code == 0, said
    assert "Traceback" not in said
    left = {*_list_leftovers(folder), *_list_leftovers(workshop.folder / "cache")} - {"out.jsonl.partial.jsonl"}
    assert not left, left
    return _read(folder, killed, said)
