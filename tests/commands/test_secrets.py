"""No secret is written or printed, whether from the environment or given on the command line by mistake."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from utils.cli.command_line import run_cli

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "Zq7Xw9Lk" * 4
KEY = "0f9e8d7c6b5a49382716"
LOGIN = "somebody:pa55word-of-mine"
SECRETS = (TOKEN, KEY, LOGIN, "pa55word-of-mine")
ENVIRONMENT = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY, "HF_ENDPOINT": f"https://{LOGIN}@127.0.0.1:9"}
TINY = [
    "--config", "configs/quickstart.yaml", "training.max_steps=2", "dataset.max_train_samples=16",
    "dataset.max_eval_samples=8", "training.eval_strategy=no", "training.load_best_model_at_end=false",
]  # fmt: skip


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, "train.py", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


def _search(folder: Path) -> list[str]:
    """Return the files of any kind that hold a secret."""
    held = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in folder.rglob("*.xlsx"):
        with ZipFile(path) as workbook:
            held |= {f"{path}/{name}": workbook.read(name) for name in workbook.namelist()}
    return [path for path, content in held.items() if any(secret.encode() in content for secret in SECRETS)]


def test_a_run_does_not_disclose_secrets_of_its_environment(tmp_path: Path) -> None:
    done = _run([*TINY, f"training.output_dir={tmp_path / 'run'}", "--json"])
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "provenance.json").is_file()
    assert list((tmp_path / "run" / "logs").iterdir()), "TensorBoard's files are among those searched"
    assert _search(tmp_path) == []
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)


@pytest.mark.parametrize(
    "words",
    [
        [f"model.token={TOKEN}"],
        [f"model.use_auth_token={KEY}"],
        [f"training.hub_token={KEY}"],
        [f"training.run_name={TOKEN}"],
        [f"task_name=https://{LOGIN}@example.org/x"],
        ["--hf_token", KEY],
        [f"--token={TOKEN}"],
        ["model.name_or_path=somebody/nothing", f"dataset.path=https://{LOGIN}@example.org/rows"],
    ],
)
def test_a_secret_given_by_mistake_is_not_repeated(words: list[str], tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert _call("train", *TINY, f"training.output_dir={tmp_path / 'run'}", "--json", *words) == 2
    said = "".join(capfd.readouterr())
    assert "error" in said
    assert not any(secret in said for secret in SECRETS)
    assert _search(tmp_path) == []


WORD = "Wq8-Zr5+Lm2"
KEYED = "9f8e7d6c5b4a"
ADDRESS = f"https://somebody:{WORD}@example.org/x?access_token={KEYED}"


def _list_leaves(tree: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _list_leaves(value, f"{before}{key}.")
        yield f"{before}{key}"


def _call(command: str, *words: str) -> int:
    script = importlib.import_module(command)
    try:
        return run_cli(script.main, script.build(), words)
    except SystemExit as ended:  # argparse
        return int(ended.code or 0)


def _require_no_secret(capfd: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...]) -> None:
    said = "".join(capfd.readouterr())
    shown = [secret for secret in (WORD, KEYED, "Wq8", TOKEN) if secret in said]
    assert not shown, f"{words}: {said}"
    held = [path for path in folder.rglob("*") if path.is_file() and path.name != "given.yaml"]
    assert not [path for path in held if any(each.encode() in path.read_bytes() for each in (WORD, KEYED, TOKEN))]


@pytest.mark.parametrize("template", ["template", "template_sft"])
def test_a_secret_in_any_key_is_not_repeated(template: str, tmp_path: Path, capfd, monkeypatch) -> None:
    """In the file and on the command line; as a value, as an item of a list, and as a name."""
    settings = yaml.safe_load((ROOT / "configs" / f"{template}.yaml").read_text("utf-8"))
    base = ("--config", f"{ROOT}/configs/{template}.yaml")
    monkeypatch.chdir(tmp_path)
    leaves = list(_list_leaves(settings))
    assert len(leaves) > 60
    for number, leaf in enumerate(leaves):
        value = (ADDRESS, f"[a, '{ADDRESS}']", f"{{'{ADDRESS}': {TOKEN}}}", f"'{ADDRESS}", f"{ADDRESS}/y z")[number % 5]
        words = (*base, f"{leaf}={value}")
        assert _call("train", *words) == 2, words
        _require_no_secret(capfd, tmp_path, words)
        given = tmp_path / "given.yaml"
        *path, last = leaf.split(".")
        tree: dict[str, Any] = {last: ADDRESS if number % 2 else {"x": [ADDRESS, TOKEN]}}
        for name in reversed(path):
            tree = {name: tree}
        given.write_text(yaml.safe_dump({"extends": base[1], **tree}))
        assert _call("validate_config", str(given), "--json") == 1, tree
        _require_no_secret(capfd, tmp_path, (str(tree),))


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--config", ADDRESS),
        ("train", "--config", "configs/quickstart.yaml", "--gpu", ADDRESS),
        ("train", "--config", "configs/quickstart.yaml", f"training.hub_token='{KEYED}"),
        ("train", "--config", "configs/quickstart.yaml", f"training.wandb_api_key=[{KEYED}, 1]"),
        ("train", "--config", "configs/quickstart.yaml", f"model.password={KEYED}"),
        ("train", f"--{ADDRESS}", "--config", "configs/quickstart.yaml"),
        ("inference", "--run", ADDRESS, "--input_text", "x"),
        ("inference", "--model", ADDRESS, "--input_text", "x"),
        ("inference", "--run", "outputs", "--input_file", f"{ADDRESS}.jsonl"),
        ("inference", "--run", "outputs", "--output_file", f"{ADDRESS}.nothing"),
        ("inference", "--config", f"{ADDRESS}.yaml", "--model_path", ADDRESS, "--input_text", "x"),
        ("evaluate_model", "--run", ADDRESS),
        ("evaluate_model", "--model", ADDRESS, "--set", f"{ADDRESS}:x"),
        ("evaluate_model", "--model", "examples/quickstart/base", "--set", f"{{name: gsm8k, path: '{ADDRESS}'}}"),
        ("merge_adapter", "--run", ADDRESS, "--output", "/nowhere"),
        ("merge_adapter", "--config", "configs/quickstart.yaml", "--adapter_path", ADDRESS, "--output", "/nowhere"),
        ("benchmark", "--config", ADDRESS),
        ("benchmark", "--config", "configs/benchmarks/quickstart.yaml", "--model", ADDRESS, "--dry-run"),
        ("benchmark", "--config", "configs/benchmarks/quickstart.yaml", "--task", ADDRESS, "--dry-run"),
        ("validate_config", ADDRESS),
        ("validate_config", "--all", ADDRESS),
    ],
)
def test_a_secret_in_any_argument_is_not_repeated(words, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _call(*words) in (1, 2)
    _require_no_secret(capfd, tmp_path, words)
    assert _call(*words, "--json") in (1, 2)
    _require_no_secret(capfd, tmp_path, words)
