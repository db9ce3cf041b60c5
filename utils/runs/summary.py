"""Terminal output of a run: the notices before it, and the table and next commands after it."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.run_config import RunConfig
from utils.core.errors import EXIT_FAILED
from utils.core.logs import is_main_process
from utils.core.project import IS_INSTALLED, ROOT, as_called
from utils.core.terminal import build_console
from utils.evaluation.files import PREDICTIONS
from utils.results.labels import translate
from utils.results.record import RunRecord
from utils.results.table import render_result_table
from utils.runs.first_answers import render_first_answers
from utils.runs.opening import RunFolder
from utils.runs.report import REPORT
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from utils.modeling.sizes import ParameterCounts

logger = logging.getLogger(__name__)


def announce_run(config: RunConfig) -> None:
    """Print the notices about older names and settings without effect; hide progress bars if not wanted."""
    if config.arguments.get("disable_tqdm"):
        os.environ["TQDM_DISABLE"] = "1"  # the libraries' bars too
    for notice in config.notices:
        logger.info("note: %s", notice)
    for warning in config.warnings:
        logger.warning("%s", warning)


def announce_parameters(counts: ParameterCounts) -> None:
    """Log how much of the model is trained."""
    share = f"{counts.trainable_percent:.4g} %"
    whole = "; all weights are trained (peft.method: none)" if counts.trainable == counts.total else ""
    logger.info("trainable parameters: %s of %s (%s)%s", f"{counts.trainable:,}", f"{counts.total:,}", share, whole)


def show_result(
    folder: RunFolder, config: RunConfig, record: RunRecord, already_done: bool = False, num_shown: int = 0
) -> dict[str, Any]:
    """Print the result table, and the answers to the first rows of each set, on standard error.

    Returns the record for `--json`; a failed record ends the process with an error.
    """
    if is_main_process():
        if already_done:
            logger.info("%s: already done (the same configuration); --overwrite runs it again", folder.path)
        table = render_result_table(record, config.results.language, list_next_commands(folder.path, config, record))
        console = build_console(stderr=True)
        for file in sorted(folder.path.glob(f"eval_*/{PREDICTIONS}")) if num_shown else ():
            label, language = file.parent.name.removeprefix("eval_"), config.results.language
            for text in render_first_answers(label, file.parent, num_shown, language):
                console.print(text, soft_wrap=True)
        console.print(table)
        if (page := folder.path / REPORT).is_file():
            console.print(f"{translate('report', config.results.language)}: {page}", soft_wrap=True, highlight=False)
    answer = {**record.to_json(), "output_dir": str(folder.path), "already_done": already_done}
    if record.status == "success":
        return answer
    kept = f"; the trained model is kept: {name_script('evaluate_model.py')} --run {folder.path} scores it again"
    logger.error("%s%s", record.extra["error"], kept if folder.final_model.is_dir() else "")
    return {**answer, "exit_code": EXIT_FAILED}


def list_next_commands(folder: Path, config: RunConfig, record: RunRecord) -> list[str]:
    """List the next commands for a finished run: use it, merge it, score it again, view its curves."""
    run = shlex.quote(str(folder)) + (" --allow_extensions" if config.extensions else "")
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
    """Return the command for one of the project's scripts with the current Python, from the working directory."""
    if IS_INSTALLED:
        return as_called(name)
    script = ROOT / name
    shown = name if Path(name).resolve() == script else str(script)
    return f"{_name_python()} {shlex.quote(shown)}"


def _name_python() -> str:
    """Return the command of this Python: `python` if a shell finds it by that name, else its path."""
    found = shutil.which("python")
    if found and Path(found).absolute() == Path(sys.executable).absolute():
        return "python"
    relative = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if relative.startswith("..") else relative)
