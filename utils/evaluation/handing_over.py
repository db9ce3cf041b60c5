"""Lets a server write in place of the model, after giving it the current adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils.adapters.adapter import load_adapter
from utils.core.replace_file import folder_beside
from utils.evaluation.processes import run_on_first, run_together
from utils.generation.server import ServedModel, serving_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def handed_over(model: PreTrainedModel, url: str, method: str, run: Path, named: str) -> Iterator[ServedModel]:
    """Give the server's model that has the adapter as it is now, and let it be forgotten afterwards.

    All processes come here, and ask the same one; the first hands over.

    Args:
        model: Has the adapter.
        url: Of a vLLM server, which sees the run's folder.
        method: The adapter's.
        run: The run's folder.
        named: What tells these weights from others of the run.

    Raises:
        ServerError: It cannot load the adapter.
    """
    with folder_beside(run / "served") as folder, ExitStack() as stack:

        def hand_over() -> ServedModel:
            load_adapter(method).save(model, folder)
            return stack.enter_context(serving_adapter(url, f"{run.name}-{named}", folder, named))

        yield run_on_first(hand_over)
        run_together(lambda: None)  # others may still be asking
