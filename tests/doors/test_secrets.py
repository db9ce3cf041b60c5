"""No secret is written down or said: not one of the environment, and not one given on the command line by mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "Zq7Xw9Lk" * 4
KEY = "0f9e8d7c6b5a49382716"
LOGIN = "somebody:pa55word-of-mine"
SECRETS = (TOKEN, KEY, LOGIN, "pa55word-of-mine")
TINY = [
    "--config", "configs/quickstart.yaml", "training.max_steps=2", "dataset.max_train_samples=16",
    "dataset.max_eval_samples=8", "training.eval_strategy=no", "training.load_best_model_at_end=false",
]  # fmt: skip


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY, "HF_ENDPOINT": f"https://{LOGIN}@127.0.0.1:9"}
    command = [sys.executable, "train.py", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


def _search(folder: Path) -> list[str]:
    """Name the files that hold a secret, whatever kind of file they are."""
    held = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in folder.rglob("*.xlsx"):
        with ZipFile(path) as workbook:
            held |= {f"{path}/{name}": workbook.read(name) for name in workbook.namelist()}
    return [path for path, content in held.items() if any(secret.encode() in content for secret in SECRETS)]


def test_a_run_keeps_the_secrets_of_its_environment(tmp_path: Path) -> None:
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
def test_a_secret_given_by_mistake_is_not_repeated(words: list[str], tmp_path: Path) -> None:
    done = _run([*TINY, f"training.output_dir={tmp_path / 'run'}", "--json", *words])
    assert done.returncode == 2, done.stderr[-2000:]
    assert "error" in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
    assert _search(tmp_path) == []
