"""SIGTERM in every phase of a run: exit code 75, nothing lost; a second one ends it at once; Ctrl-C exits with 130."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from utils.trainer.checkpoint_files import find_checkpoints

SEEN = {
    "loading": lambda run, folder: "data eval" in run.said,
    "training": lambda run, folder: "step 3/12" in run.said,
    "writing a checkpoint": lambda run, folder: any(folder.glob(".checkpoint-*.partial")),
    "evaluation": lambda run, folder: "step 4/12  loss" in run.said,
    "generation": lambda run, folder: any(folder.glob("eval_step_4/**/*predictions.jsonl")),
    "scoring at the end": lambda run, folder: any(folder.glob("eval_gsm8k/*predictions.jsonl")),
    "export": lambda run, folder: (folder / "final_model.partial").exists(),
}


def stop(start_run: Any, file: Path, folder: Path, phase: str, number: int = signal.SIGTERM) -> Any:
    run = start_run("--config", str(file))
    run.wait_for(lambda: SEEN[phase](run, folder))
    run.signal(number)
    return run


def resume(start_run: Any, file: Path) -> Any:
    run = start_run("--config", str(file), "--resume")
    assert run.end() == 0, run.said
    return run


def read_status(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["status"])


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        ("training", "classifier"),
        pytest.param("loading", "classifier", marks=pytest.mark.slow),
        pytest.param("writing a checkpoint", "classifier", marks=pytest.mark.slow),
        pytest.param("evaluation", "classifier", marks=pytest.mark.slow),
        pytest.param("export", "classifier", marks=pytest.mark.slow),
        pytest.param("generation", "language model", marks=pytest.mark.slow),
        pytest.param("scoring at the end", "language model", marks=pytest.mark.slow),
    ],
)
def test_sigterm(phase, kind, start_run, write_run, run_whole, check_outcome):
    file, folder = write_run(kind)
    run = stop(start_run, file, folder, phase)
    assert run.end() == 75, run.said
    assert "Traceback" not in run.said
    assert read_status(folder) == "interrupted"
    reached = [each.name for each in find_checkpoints(folder)]
    if phase != "loading":
        assert reached
        assert f"--resume continues from {reached[-1]}" in run.said
    assert not (folder / "final_model.partial").exists()
    resume(start_run, file)
    check_outcome(folder, run_whole(kind))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_sigusr1_and_sighup_are_sigterm(number, start_run, write_run):
    file, folder = write_run("classifier")
    run = stop(start_run, file, folder, "training", number)
    assert run.end() == 75, run.said
    assert find_checkpoints(folder)


@pytest.mark.slow
def test_ctrl_c_prints_how_to_continue(start_run, write_run):
    file, folder = write_run("classifier")
    run = stop(start_run, file, folder, "training", signal.SIGINT)
    assert run.end() == 130, run.said
    assert f"--resume continues from {find_checkpoints(folder)[-1].name}" in run.said
    assert read_status(folder) == "interrupted"


@pytest.mark.slow
def test_a_second_signal_ends_the_run_at_once(start_run, write_run):
    file, folder = write_run("language model")
    run = stop(start_run, file, folder, "training")
    run.wait_for(lambda: "SIGTERM: the run saves" in run.said)
    run.signal(signal.SIGTERM)
    assert run.end() == 75, run.said
    assert "SIGTERM again: ended at once" in run.said
    resume(start_run, file)


def test_sigterm_while_rows_are_encoded(start_run, write_run, tmp_path):
    """Each row takes a second here; the encoding thread is not waited for."""
    turns = [[{"role": "user", "content": f"x{n}"}, {"role": "assistant", "content": "y"}] for n in range(60)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    busy = "{% for a in range(1000) %}" * 2 + "{% endfor %}" * 2
    write = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    (tmp_path / "slow.jinja").write_text(busy * 10 + write)
    file, folder = write_run(
        "language model", dataset={"name": "custom", "path": str(tmp_path / "chats.jsonl"), "validation_size": 4},
        model__chat_template=str(tmp_path / "slow.jinja"), evaluation={"at_end": False},
    )  # fmt: skip
    run = start_run("--config", str(file))
    run.wait_for(lambda: (folder / "provenance.json").is_file())
    time.sleep(4)
    assert run.is_alive(), run.said
    asked = time.monotonic()
    run.signal(signal.SIGTERM)
    assert run.end() == 75, run.said
    assert time.monotonic() - asked < 20, run.said
    assert read_status(folder) == "interrupted"
