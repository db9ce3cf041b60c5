"""Proves that a saved language model is the trained one: next-token logits on rows, before and after reloading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from utils.data.dataset import spread
from utils.tasks.classification.reload_check import cannot_hold_whole, compare_logits, compute_dtype, replace_model
from utils.trainer.varlen_attention import plain_attention

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel

    from utils.tasks.sft.trainer import CausalTrainer

NUM_ROWS = 32
_MAX_TOKENS = 512  # the check is about weights: a row's first tokens go through all of them


def check_language_model(
    trainer: CausalTrainer, rows: Dataset | None, load_saved: Callable[[], PreTrainedModel]
) -> dict[str, Any] | None:
    """Compare the trained model with the one read back from disk.

    Args:
        trainer: Holds the trained model; afterwards it holds the one read back.
        rows: Rows with `input_ids`; 32 of them are used.
        load_saved: Loads the saved model as a user would.

    Returns:
        The figures of the check; None without rows.

    Raises:
        CheckError: The difference is more than rounding.
    """
    if rows is None or not len(rows) or cannot_hold_whole(trainer):
        return None
    chosen = [row["input_ids"][:_MAX_TOKENS] for row in spread(rows, NUM_ROWS)]
    before, dtype = _logits(trainer, chosen), compute_dtype(trainer)
    replace_model(trainer, load_saved)
    return dict(compare_logits(before, _logits(trainer, chosen), dtype))


def _logits(trainer: CausalTrainer, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Give the logits after the last token of each row, one row at a time; shape (rows, vocabulary)."""
    import numpy as np
    import torch

    model, found = trainer.model.eval(), []
    with torch.no_grad(), plain_attention(model), trainer.compute_loss_context_manager():
        for ids in rows:
            logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
            found.append(logits[0, -1].float().cpu().numpy())
    stacked: np.ndarray[Any, Any] = np.stack(found)
    return stacked
