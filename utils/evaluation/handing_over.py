"""Let a server generate in place of the model, after loading the current adapter."""

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
    """Yield the server's model with the current adapter, and unload it afterwards.

    All processes call this and use the same model; the first loads it.

    `url` is that of a vLLM server that can read the run's folder; `named` distinguishes these weights from others of
    the run.

    Raises:
        ServerError: The server cannot load the adapter.
    """
    with folder_beside(run / "served") as folder, ExitStack() as stack:

        def hand_over() -> ServedModel:
            load_adapter(method).save(model, folder)
            return stack.enter_context(serving_adapter(url, f"{run.name}-{named}", folder, named))

        yield run_on_first(hand_over)
        run_together(lambda: None)  # other processes may still be generating
