"""Real runs of train.py on the embedded base, started quickly, observed, and killed at chosen moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
PATIENCE_S = 240


@dataclass
class CommandRunner:
    """The process that forks runs."""

    process: subprocess.Popen[str]

    def ask(self, **request: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@dataclass
class Started:
    """A started run of train.py."""

    keeper: CommandRunner
    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)
    code: int | None = None

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, self.said
            assert self.is_alive(), self.said
            time.sleep(0.001)

    def is_alive(self) -> bool:
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> int:
        """Wait for the process to end and return its exit code; a negative one is the signal that killed it."""
        if self.code is None:
            self.code = self.keeper.ask(wait=self.pid)
        return self.code

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.end()


@pytest.fixture(scope="session")
def command_runner() -> Iterator[CommandRunner]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("command_runner.py"))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    yield CommandRunner(process)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def start_run(command_runner: CommandRunner, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Return a function that starts train.py with arguments; runs alive at the end of a test are killed."""
    runs: list[Started] = []

    def start(*words: str, **environment: str) -> Started:
        log = tmp_path / f"log_{len(runs)}.txt"
        log.touch()
        pid = command_runner.ask(words=list(words), log=str(log), environment=environment)
        runs.append(Started(command_runner, pid, log))
        return runs[-1]

    yield start
    for run in runs:
        if run.code is None:
            run.kill()


SETTINGS: dict[str, dict[str, Any]] = {
    "classifier": {
        "task_name": "fault", "task_type": "SEQ_CLS", "model": {"name_or_path": str(QUICKSTART / "base")},
        "peft": {"method": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"},
        "dataset": {
            "name": "custom", "path": str(QUICKSTART / "acceptability"), "text_column": "sentence",
            "label_column": "label", "label_names": ["unacceptable", "acceptable"], "max_length": 64,
            "max_train_samples": 48, "max_eval_samples": 24,
        },
        "training": {
            "max_steps": 12, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "logging_steps": 1,
            "per_device_eval_batch_size": 4, "learning_rate": 3e-3, "eval_strategy": "steps", "eval_steps": 4,
            "save_steps": 2, "save_total_limit": 2, "use_cpu": True, "load_best_model_at_end": False,
        },
    },
    "language model": {
        "task_name": "fault", "task_type": "CAUSAL_LM",
        "model": {"name_or_path": str(QUICKSTART / "base"), "dtype": "float32"},
        "peft": {"method": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"},
        "dataset": {"name": "gsm8k", "path": str(QUICKSTART / "arithmetic"), "max_train_samples": 48},
        "training": {
            "max_steps": 12, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "logging_steps": 1,
            "learning_rate": 3e-3, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "use_cpu": True,
        },
        "sft": {"max_length": 128},
        "generation": {"max_new_tokens": 16, "batch_size": 2},
        "evaluation": {"steps": 4, "max_samples": 8},
    },
}  # fmt: skip
_PAIRS = {"name": "custom", "path": str(QUICKSTART / "preference"), "prompt_template": "Question: {question}\nAnswer:",
          "max_train_samples": 48, "max_eval_samples": 8}  # fmt: skip
_SHARED = {key: value for key, value in SETTINGS["language model"].items() if key not in ("sft", "evaluation")}
SETTINGS["dpo"] = {**_SHARED, "dataset": _PAIRS, "dpo": {"max_length": 128, "loss_type": ["sigmoid", "sft"]}}
SETTINGS["grpo"] = {
    **_SHARED,
    "grpo": {"rewards": {"rouge_l": 1.0}, "max_completion_length": 16, "num_generations": 4, "num_iterations": 2},
    "evaluation": {"at_end": False},
}
SETTINGS["reward"] = {key: value for key, value in _SHARED.items() if key != "generation"}
SETTINGS["reward"] |= {"task_type": "SEQ_CLS", "dataset": _PAIRS, "reward": {"max_length": 128}}
SETTINGS["kto"] = {**_SHARED, "dataset": {"name": "custom", "validation_size": 8}, "kto": {"max_length": 128}}
SETTINGS["qst"] = {**SETTINGS["classifier"], "peft": {"method": "qst", "cache": {"where": "disk"}}}


def write_labelled(file: Path) -> Path:
    """Write one-word answers, alternating good and bad."""
    pairs = [json.loads(line) for line in (QUICKSTART / "preference" / "train.jsonl").read_text().splitlines()[:56]]
    rows = [
        {"prompt": f"Question: {pair['question']}\nAnswer:", "completion": " " + pair[kind], "label": kind == "chosen"}
        for pair, kind in zip(pairs, ("chosen", "rejected") * 28, strict=True)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Return `write_run("classifier", "name", training__max_steps=4)`, which writes a small run's file.

    It returns the file and the run's folder.
    """

    def write(kind: str, name: str = "run", **overrides: Any) -> tuple[Path, Path]:
        settings: dict[str, Any] = json.loads(json.dumps(SETTINGS[kind]))
        folder = tmp_path / name
        settings["training"]["output_dir"] = str(folder)
        if kind == "kto":
            settings["dataset"]["path"] = str(write_labelled(tmp_path / "labelled.jsonl"))
        for key, value in overrides.items():
            section, _, last = key.rpartition("__")
            (settings[section] if section else settings)[last] = value
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return file, folder

    return write


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run."""

    weights: dict[str, bytes]
    losses: list[tuple[int, float]]
    num_lines: int
    """Lines printed before the check of its export; 0: not counted."""


def _read_outcome(run: Path, said: str = "") -> Outcome:
    weights = {each.name: each.read_bytes() for each in (run / "final_model").glob("*.safetensors")}
    assert weights, sorted((run / "final_model").iterdir())
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    losses = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    return Outcome(weights, losses, said.partition("reload check")[0].count("\n"))


@pytest.fixture(scope="session")
def whole_runs() -> dict[str, Outcome]:
    """Return a cache of the outcomes of uninterrupted runs, by kind."""
    return {}


@pytest.fixture
def run_whole(
    whole_runs: dict[str, Outcome], start_run: Callable[..., Started], write_run: Callable[..., tuple[Path, Path]]
) -> Callable[[str], Outcome]:
    """Return a function that runs a kind once without a fault."""

    def run(kind: str) -> Outcome:
        if kind not in whole_runs:
            file, folder = write_run(kind, "whole")
            process = start_run("--config", str(file))
            assert process.end() == 0, process.said
            whole_runs[kind] = _read_outcome(folder, process.said)
        return whole_runs[kind]

    return run


@pytest.fixture
def check_outcome() -> Callable[[Path, Outcome], None]:
    """Return a function that compares two runs bit for bit; with `rounding`, their losses only."""

    def check(run: Path, expected: Outcome, rounding: float = 0.0) -> None:
        found = _read_outcome(run)
        if rounding:
            assert dict(found.losses) == pytest.approx(dict(expected.losses), rel=rounding)
        else:
            assert found.losses == expected.losses
            assert found.weights == expected.weights
        assert json.loads((run / "results.json").read_text())["status"] == "success"
        assert not list(run.glob(".checkpoint-*")), "no leftovers"

    return check


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a module's tests keep the run that they share."""
    return tmp_path_factory.mktemp("kept")
