"""The commands as separate processes: missing GPUs, refusals, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """task_type: SEQ_CLS
model: {name_or_path: bert-base-uncased}
dataset: {name: glue, subset: rte}
"""


def open_train(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "RANK")}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_a_missing_gpu_is_refused() -> None:
    done = open_train("--config", "configs/quickstart.yaml", "--gpu", "0")
    assert done.returncode == 2
    assert done.stderr == "error: --gpu 0: there is no GPU 0; this machine has no NVIDIA GPU\n"


def test_a_gpu_that_is_not_a_number_is_refused() -> None:
    done = open_train("--config", "configs/quickstart.yaml", "--gpu", "abc")
    assert done.returncode == 2
    assert done.stderr == "error: --gpu abc: 'abc' is not a GPU index; write --gpu 0 or --gpu 0,1\n"


@pytest.mark.parametrize(
    "words", [[], ["--config"], ["--config", "x.yaml", "training.optim", "sgd"], ["--conf", "x.yaml"]]
)
def test_a_wrong_command_line_shows_the_usage(words: list[str]) -> None:
    done = open_train(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: train.py")


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ("train.py", "key=value words override the file"),
        ("evaluate_model.py", "NAME:SUBSET@SPLIT"),
        ("inference.py", "--output_file"),
    ],
)
def test_help_imports_no_ml_library(script: str, part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert part in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "peft", "datasets", "pydantic", "yaml", "rich"}


def test_refusals_are_one_sentence_and_write_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(RUN)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    foreign = open_train("--config", "run.yaml", "training.output_dir=full", "--json", cwd=tmp_path)
    assert foreign.returncode == 2
    assert json.loads(foreign.stdout)["status"] == "bad_input"
    assert "is not empty and not a run's folder" in foreign.stderr
    resumed = open_train("--config", "run.yaml", "--resume", "training.num_train_epochs=5", cwd=tmp_path)
    assert resumed.returncode == 2
    assert resumed.stderr == "error: outputs/run holds no run to resume; leave --resume out to start one\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["full", "run.yaml"]


def test_an_override_is_not_taken_as_an_options_value(tmp_path: Path) -> None:
    (tmp_path / "a=b.yaml").write_text(RUN + "trainin: 1\n")
    done = open_train("seed=x", "--config", "a=b.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: a=b.yaml:4  trainin: unknown section; did you mean training?\n"
        "error: command line  seed: 'x' is not allowed; use a whole number from 0 below 4294967296\n"
    )


def test_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    """The configuration is a pipe nobody writes to, so the command is waiting when it is interrupted."""
    pipe = tmp_path / "run.yaml"
    os.mkfifo(pipe)
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(pipe), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as script:
        writer = os.open(pipe, os.O_WRONLY)  # opens as soon as the command opens its end
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=60)
        os.close(writer)
    assert script.returncode == 130
    assert err == "interrupted (SIGINT)\n"
    assert json.loads(out) == {"status": "interrupted"}
