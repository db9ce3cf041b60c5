"""Looks at a run's rows as training would, without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.core.errors import ModelError, UserError
from utils.tasks.task import open_task

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig


def check_rows(settings: RunConfig) -> tuple[list[str], list[str]]:
    """Read and encode the rows; where the tokenizer cannot be had, read them alone.

    Args:
        settings: The run.

    Returns:
        All that is wrong, a sentence each; and warnings.
    """
    from utils.modeling.tokenizer import load_tokenizer

    task, warnings = open_task(settings), []
    try:
        tokenizer = load_tokenizer(settings.model)
    except ModelError as error:
        tokenizer = None
        warnings.append(f"rows are read but not encoded: {error}")
    try:
        if tokenizer is None:
            task.fingerprint_rows()
        else:
            task.prepare_data(tokenizer)
    except UserError as error:
        return str(error).splitlines(), warnings
    return [], warnings
