"""Whatever the files that a command reads contain, it ends with one sentence, in time, and runs no code from them."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.faults.conftest import SETTINGS
from tests.faults.mutating import mutate

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
LIMIT_S = 60
"""CPU seconds; the longest of these commands needs five."""
CODES = (0, 1, 2, 75, 130)
UNREAD = (".bin", ".md", ".lock", ".xlsx", ".tex")
SMALL = {
    "training": {
        "max_steps": 4,
        "save_steps": 2,
        "eval_steps": 2,
        "report_to": "none",
        "gradient_accumulation_steps": 1,
    },
    "generation": {"max_new_tokens": 8, "batch_size": 4},
    "evaluation": {"steps": 2, "max_samples": 4},
}


class Case(NamedTuple):
    """A command in a folder, and the files that it reads."""

    stock: str
    script: str
    words: str
    files: tuple[str, ...]


RUN = "--run run"
MODEL_FILES = ("run/run.yaml", "run/labels.json", "run/final_model/*")
STATE_FILES = ("run/*.json", "run/*.jsonl", "run/run.yaml", "run/checkpoint-4/*", "run/eval*/*")
BASIC = (
    Case("classifier", "inference.py", f"{RUN} --input_text dog", MODEL_FILES),
    Case("classifier", "train.py", "--config run.yaml --resume training.max_steps=5", STATE_FILES),
    Case("classifier", "validate_config.py", "run.yaml", ("run.yaml",)),
    Case("classifier", "merge_adapter.py", f"{RUN} --output merged", (*MODEL_FILES, "run/probe*")),
)
"""These need one small run."""
OTHER = "utils/cli/lora_ns.py"
OVER_RUN = "training.output_dir=out training.max_steps=1 model.name_or_path=."
ALL = (
    *BASIC,
    Case("full", "inference.py", f"{RUN} --input_text dog", MODEL_FILES),
    Case("language model", "inference.py", f"{RUN} --input_text dog", MODEL_FILES),
    Case("language model", "inference.py", f"{RUN} --checkpoint 4 --input_text dog", ("run/checkpoint-4/*.json",)),
    Case("base", "inference.py", "--model . --input_text dog", ("*",)),
    Case("classifier", "evaluate_model.py", RUN, STATE_FILES),
    Case("language model", "evaluate_model.py", RUN, STATE_FILES),
    Case("language model", "evaluate_model.py", f"{RUN} --set gsm8k@test[:4]", MODEL_FILES),
    Case("language model", "merge_adapter.py", f"{RUN} --output merged", (*MODEL_FILES, "run/probe*")),
    Case("classifier", "train.py", "--config run.yaml", STATE_FILES),
    Case("language model", "train.py", "--config run.yaml --resume training.max_steps=5", STATE_FILES),
    Case("base", "train.py", f"--config STOCK/classifier/run.yaml {OVER_RUN}", ("*",)),
    Case("base", "train.py", f"--config STOCK/language_model/run.yaml {OVER_RUN} evaluation.steps=null", ("*",)),
    Case("classifier", "train.py", "--config run.yaml --overwrite training.max_steps=1", ("run.yaml",)),
    Case("suite", "benchmark.py", "--config suite.yaml", ("suite.yaml", "base.yaml", "out/*", "out/*/*", "out/*/*/*")),
    Case("suite", "benchmark.py", "--config suite.yaml --report", ("suite.yaml", "out/*", "out/*/*", "out/*/*/*")),
    *(
        Case("rows", "train.py", f"--config STOCK/{run}/run.yaml dataset.name=custom dataset.path={name} "
             f"training.output_dir=out training.max_steps=1 dataset.validation_size=4 {more}", (name, "*.jinja"))
        for run, name, more in (
            *(("classifier", f"labelled.{kind}", "") for kind in ("jsonl", "json", "csv", "tsv", "parquet")),
            *(("language_model", f"sums.{kind}", "dataset.prompt_template='{question}' dataset.answer_column=answer")
              for kind in ("jsonl", "csv", "parquet")),
            ("language_model", "chats.jsonl", "model.chat_template=chat.jinja"),
        )
    ),
    *(
        Case("rows", "inference.py", f"--run STOCK/classifier/run --input_file labelled.{kind} "
             f"--output_file out.{kind}", (f"labelled.{kind}", "*.partial.jsonl"))
        for kind in ("jsonl", "json", "csv", "tsv", "parquet")
    ),
    *(Case(run, OTHER, words, (*MODEL_FILES, *STATE_FILES)) for run in ("classifier", "language model")
      for words in ("compare run STOCK/full/run", "report run", "push run me/x --dry-run")),
    Case("classifier", "train.py", "--config run.yaml --plan", ("run.yaml",)),
    *(Case("base", "train.py", f"--config STOCK/{run}/run.yaml model.name_or_path=. --plan {more}", ("*.json",))
      for run in ("classifier", "language_model") for more in ("", "--probe")),
    *(Case("rows", "evaluate_model.py", f"--run STOCK/language_model/run --output_dir out --set sums.{kind}",
           (f"sums.{kind}",)) for kind in ("jsonl", "csv", "parquet")),
)  # fmt: skip


class Workshop:
    """Runs commands in copies of a folder.

    Args:
        keeper: Forks them.
        folder: Parent of all copies.
    """

    def __init__(self, keeper: Any, folder: Path) -> None:
        self._keeper, self._stock, self.logger = keeper, folder / "stock", folder / "log.txt"
        self.folder = folder
        self._work = folder / "work"
        self._environment = {"HF_HUB_OFFLINE": "1", "LORA_NS_CACHE": str(folder / "cache")}
        self.stock_run("classifier", {})

    def fresh(self, stock: str) -> Path:
        """Replace the working copy by a new copy of a stock folder."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._stock / stock.replace(" ", "_"), self._work, symlinks=True)
        return self._work

    def call(self, script: str, words: str | Sequence[str], folder: Path) -> tuple[int, str]:
        """Run a command and return its exit code and all its output."""
        pid = self.start(script, words, folder)
        return self._keeper.ask(wait=pid), self.logger.read_text("utf-8", errors="replace")

    def call_and_kill(self, script: str, words: str | Sequence[str], folder: Path, seconds: float) -> bool:
        """Run a command and kill it after some time; return False if it had already ended."""
        pid = self.start(script, words, folder)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return bool(self._keeper.ask(wait=pid) == -signal.SIGKILL)

    def start(self, script: str, words: str | Sequence[str], folder: Path) -> int:
        """Start a command."""
        self.logger.write_text("")
        wanted = [
            each.replace("STOCK", str(self._stock)) for each in (words.split() if isinstance(words, str) else words)
        ]
        request = {
            "script": script,
            "words": wanted,
            "log": str(self.logger),
            "folder": str(folder),
            "limit_s": LIMIT_S,
        }
        pid: int = self._keeper.ask(**request, environment=self._environment)
        return pid

    def stock_run(self, name: str, changes: dict[str, Any]) -> None:
        """Train a small run."""
        folder = self._stock / name.replace(" ", "_")
        settings = json.loads(json.dumps({**SETTINGS["classifier" if name == "full" else name], **changes}))
        for section, values in SMALL.items():
            if section in settings:
                settings[section].update(values)
        settings["training"]["output_dir"] = "run"
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text(yaml.safe_dump(settings))
        code, said = self.call("train.py", "--config run.yaml", folder)
        assert code == 0, said

    def stock_all(self) -> None:
        """Make what the other cases need."""
        self.stock_run("language model", {})
        self.stock_run("full", {"peft": {"method": "none"}})
        shutil.copytree(QUICKSTART / "base", self._stock / "base")
        _write_rows(self._stock / "rows")
        suite = self._stock / "suite"
        suite.mkdir()
        settings = yaml.safe_load((self._stock / "classifier" / "run.yaml").read_text())
        settings["training"].update(eval_strategy="no", save_strategy="no", max_steps=1)
        (suite / "base.yaml").write_text(yaml.safe_dump(settings))
        plan = {"suite": "s", "base": "base.yaml", "output_dir": "out", "tasks": {"a": {}}, "seeds": [1]}
        (suite / "suite.yaml").write_text(yaml.safe_dump({**plan, "methods": {"lora": {"peft.method": "lora"}}}))
        code, said = self.call("benchmark.py", "--config suite.yaml", suite)
        assert code == 0, said
        (self._stock / "rows" / "out.jsonl.partial.jsonl").write_text('{"version": 1, "identity": {}}\n')

    def try_mutant(self, case: Case, draw: random.Random) -> str | None:
        """Corrupt a file, run the command on it, and return a description of what went wrong."""
        self.fresh(case.stock)
        found = {each for pattern in case.files for each in self._work.glob(pattern)}
        file = draw.choice(sorted(each for each in found if each.is_file() and each.suffix not in UNREAD))
        how = mutate(file, draw)
        _update_listed_size(file)
        code, said = self.call(case.script, case.words, self._work)
        if not (wrong := judge(code, said)):
            return None
        return f"{case.script} {case.words}\n{file.relative_to(self._work)}: {how}: {wrong}\n{said[-1500:]}"


def judge(code: int, said: str) -> list[str]:
    """List what a command did that it must not do."""
    wrong = [word for word in ("Traceback", "\x1b[31m", "HOSTILE CODE RAN") if word in said]
    if code not in CODES:
        wrong.append(f"exit code {code}" if code >= 0 else signal.Signals(-code).name)
    return wrong


def _update_listed_size(file: Path) -> None:
    """Update the file's size in the checkpoint's list, as whoever corrupts it on purpose would."""
    listed = file.parent / "complete.json"
    if not listed.is_file() or file.name == listed.name or not file.is_file():
        return
    content = json.loads(listed.read_text())
    content["files"][file.name] = file.stat().st_size
    listed.write_text(json.dumps(content))


def _write_rows(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    read = {"labelled": QUICKSTART / "acceptability", "sums": QUICKSTART / "arithmetic"}
    for name, source in read.items():
        rows = [json.loads(line) for line in (source / "train.jsonl").read_text().splitlines()[:24]]
        rows = [{key: str(value).replace("\n", " ") for key, value in row.items()} for row in rows]
        names = {"0": "unacceptable", "1": "acceptable"}
        rows = [{**row, "label": names[row["label"]]} if "label" in row else row for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.json").write_text(json.dumps(rows))
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        for suffix, separator in ((".csv", ","), (".tsv", "\t")):
            with (folder / f"{name}{suffix}").open("w", newline="") as file:
                table = csv.DictWriter(file, list(rows[0]), delimiter=separator)
                table.writeheader()
                table.writerows(rows)
        turns = [[{"role": "user", "content": f"x{n}"}, {"role": "assistant", "content": "y"}] for n in range(24)]
        (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    write = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    (folder / "chat.jinja").write_text(write)


@pytest.fixture(scope="module")
def workshop(command_runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(command_runner, tmp_path_factory.mktemp("mutants"))


def _try_all(workshop: Workshop, cases: tuple[Case, ...], count: int, seed: int) -> None:
    draw = random.Random(seed)
    wrong = [workshop.try_mutant(cases[number % len(cases)], draw) for number in range(count)]
    found = [each for each in wrong if each]
    assert not found, f"{len(found)} of {count}:\n\n" + "\n\n".join(found[:20])


def test_a_few_mutants(workshop: Workshop):
    _try_all(workshop, BASIC, 5, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_five_hundred_mutants(workshop: Workshop):
    """Every case is first run undamaged: one that already fails would prove nothing.

    LORA_NS_MUTANTS and LORA_NS_SEED select more and other mutants.
    """
    workshop.stock_all()
    for case in ALL:
        folder = workshop.fresh(case.stock)
        code, said = workshop.call(case.script, case.words, folder)
        assert code == 0, f"{case}: {said[-1500:]}"
    count, seed = (int(os.environ.get(f"LORA_NS_{name}", usual)) for name, usual in (("MUTANTS", 500), ("SEED", 7)))
    _try_all(workshop, ALL, count, seed)


@pytest.mark.parametrize(
    ("code", "said", "wrong"),
    [
        (0, "fine", []),
        (2, "error: damaged", []),
        (1, "Traceback (most recent call last):", ["Traceback"]),
        (2, "error: the column \x1b[31mred", ["\x1b[31m"]),
        (-signal.SIGXCPU, "", ["SIGXCPU"]),
        (134, "", ["exit code 134"]),
    ],
)
def test_forbidden_outcomes_of_a_mutant_are_detected(code: int, said: str, wrong: list[str]):
    assert judge(code, said) == wrong
