"""What a run says of itself on the terminal: the notices before it, the table and next commands after it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from utils.config.run_config import RunConfig
from utils.core.errors import EXIT_FAILED
from utils.results.record import RunRecord
from utils.results.table import render_result_table
from utils.runs.next_commands import list_next_commands, name_script
from utils.runs.opening import RunFolder

if TYPE_CHECKING:
    from utils.modeling.sizes import ParameterCounts

logger = logging.getLogger(__name__)


def announce_run(config: RunConfig) -> None:
    """Say what was read under an older name, and which settings have no effect."""
    for notice in config.notices:
        logger.info("note: %s", notice)
    for warning in config.warnings:
        logger.warning("%s", warning)


def announce_parameters(counts: ParameterCounts) -> None:
    """Say how much of the model is trained."""
    share = f"{counts.trainable_percent:.4g} %"
    whole = "; all weights are trained (peft.method: none)" if counts.trainable == counts.total else ""
    logger.info("trainable parameters: %s of %s (%s)%s", f"{counts.trainable:,}", f"{counts.total:,}", share, whole)


def show_result(folder: RunFolder, config: RunConfig, record: RunRecord, already_done: bool = False) -> dict[str, Any]:
    """Print the result table on standard error and give the record for `--json`; a failed one ends the process so."""
    from utils.core.logs import is_main_process
    from utils.core.terminal import build_console

    if is_main_process():
        if already_done:
            logger.info("%s: already done (the same configuration); --overwrite runs it again", folder.path)
        table = render_result_table(record, config.results.language, list_next_commands(folder.path, config, record))
        build_console(stderr=True).print(table)
    answer = {**record.to_json(), "output_dir": str(folder.path), "already_done": already_done}
    if record.status == "success":
        return answer
    kept = f"; the trained model is kept: {name_script('evaluate_model.py')} --run {folder.path} scores it again"
    logger.error("%s%s", record.extra["error"], kept if folder.final_model.is_dir() else "")
    return {**answer, "exit_code": EXIT_FAILED}
