"""The commands that come after a run, as they can be typed: each works on what the run has left."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from utils.config.run_config import RunConfig
from utils.results.record import RunRecord
from utils.tasks.task import load_task

_ROOT = Path(__file__).resolve().parents[2]


def list_next_commands(folder: Path, config: RunConfig, record: RunRecord) -> list[str]:
    """Name what can be done with a finished run: use it, merge it, score it again, look at its curves.

    Args:
        folder: The run's.
        config: The run.
        record: What it measured.
    """
    run = shlex.quote(str(folder))
    commands = []
    if (folder / "final_model").is_dir():
        texts = " ".join(['--input_text "..."'] * load_task(config.task).count_texts(config.dataset))
        commands.append(f"{name_script('inference.py')} --run {run} {texts}")
        if record.evaluation:
            commands.append(f"{name_script('evaluate_model.py')} --run {run}")
        if config.peft.LIMITS.merge is None and config.arguments.get("do_train", True):
            merged = shlex.quote(str(Path("merged", folder.name)))
            commands.append(f"{name_script('merge_adapter.py')} --run {run} --output {merged}")
    reports = config.arguments.get("report_to")
    logs = Path(config.training.logging_dir or folder / "logs")
    if "tensorboard" in (reports if isinstance(reports, list) else [reports]) and logs.is_dir():
        commands.append(f"{_name_python()} -m tensorboard.main --logdir {shlex.quote(str(logs))}")
    return commands


def name_script(name: str) -> str:
    """Name one of our scripts with the Python that runs it, from the working directory."""
    script = _ROOT / name
    shown = name if Path(name).resolve() == script else str(script)
    return f"{_name_python()} {shlex.quote(shown)}"


def _name_python() -> str:
    """Name this Python: `python` where that is what a shell finds, else by its path."""
    found = shutil.which("python")
    if found and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    relative = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if relative.startswith("..") else relative)
