"""Proves that what was saved is what was trained: reloads it from disk onto the base and compares logits."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

from utils.core.errors import CheckError
from utils.data.classification import ClassificationData
from utils.metrics.metric import compute_metrics

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, Trainer

    from utils.tasks.classification.trainer import ClassificationTrainer

logger = logging.getLogger(__name__)

NUM_ROWS = 256
_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of a logit, relative to the largest logit, that rounding explains."""


def check_reload(
    trainer: ClassificationTrainer,
    data: ClassificationData,
    load_saved: Callable[[], PreTrainedModel],
    seed: int,
) -> dict[str, Any] | None:
    """Compare the trained model with the one read back from disk, on validation rows.

    Args:
        trainer: Holds the trained model; afterwards it holds the one read back.
        data: The prepared set; 256 validation rows are drawn by the seed.
        load_saved: Loads the saved model as a user would.
        seed: Draws the rows.

    Returns:
        The figures of the check; None where there are no validation rows.

    Raises:
        CheckError: The difference is more than rounding.
    """
    if "" not in data.evals or cannot_hold_whole(trainer):
        return None
    rows = data.evals[""].dataset
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(NUM_ROWS, len(rows))))  # noqa: S311  no secret
    subset = rows.select(chosen)
    before, dtype = _logits(trainer, subset), compute_dtype(trainer)
    replace_model(trainer, load_saved)
    after = _logits(trainer, subset)
    return _compare(before, after, subset["labels"][:], data, dtype)


def compare_logits(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], dtype: str) -> dict[str, float]:
    """Compare two models' logits on the same rows.

    Args:
        before: Of the trained model, any shape.
        after: Of the one read back, the same shape.
        dtype: What is computed in, `float32`, `float16` or `bfloat16`.

    Returns:
        The largest difference, and what rounding explains.

    Raises:
        CheckError: The difference is more than rounding, or the model has diverged.
    """
    scale = max(float(abs(before).max()), 1e-6)
    difference = float(abs(before - after).max())
    tolerance = _TOLERANCE[dtype] * max(scale, 1.0)
    if not math.isfinite(scale):
        raise CheckError(
            "the trained model answers with numbers that are not finite: it has diverged; lower "
            "training.learning_rate, or set training.max_grad_norm"
        )
    if not difference <= tolerance:
        raise CheckError(
            f"the saved model is not the trained one: after reloading, logits differ by {difference:.3g} (rounding in "
            f"{dtype} explains {tolerance:.3g}); the results describe the model in memory, not the files"
        )
    logger.info(
        "reload check: %d rows, largest logit difference %.2g: the saved model is the trained one",
        len(before),
        difference,
    )
    return {"rows": len(before), "largest_logit_difference": difference, "tolerance": tolerance}


def _compare(
    before: np.ndarray[Any, Any],
    after: np.ndarray[Any, Any],
    labels: list[Any],
    data: ClassificationData,
    dtype: str,
) -> dict[str, Any]:
    report = compare_logits(before, after, dtype)
    answers = [_predict(logits, data.num_labels) for logits in (before, after)]
    scores = [compute_metrics(data.spec.metrics, answer, labels, data.num_labels, quiet=True) for answer in answers]
    return {
        **report,
        "same_predictions": float((answers[0] == answers[1]).mean()) if data.num_labels > 1 else None,
        "score_trained": scores[0],
        "score_reloaded": scores[1],
    }


def _predict(logits: np.ndarray[Any, Any], num_labels: int) -> np.ndarray[Any, Any]:
    return logits.reshape(-1) if num_labels == 1 else logits.argmax(axis=-1)


def _logits(trainer: ClassificationTrainer, rows: Any) -> np.ndarray[Any, Any]:
    """Give whole logits, shape (rows, labels); by the bare model: DeepSpeed's evaluation wants an optimizer."""
    import numpy as np
    import torch

    model, found = trainer.model.eval(), []
    names = [name for name in trainer.processing_class.model_input_names if name in rows.column_names]
    size = trainer.args.per_device_eval_batch_size
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for start in range(0, len(rows), size):
            chosen = rows.select_columns(names)[start : start + size]
            examples = [dict(zip(names, values, strict=True)) for values in zip(*chosen.values(), strict=True)]
            batch = trainer.data_collator(examples).to(trainer.args.device)
            found.append(model(**batch)[0].float().cpu().numpy())
    stacked: np.ndarray[Any, Any] = np.concatenate(found)
    return stacked


def cannot_hold_whole(trainer: Trainer) -> bool:
    """Tell, and say, that one device may have no room for the weights that several hold in parts."""
    spread = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
    if spread and trainer.args.device.type != "cpu":
        logger.info("reload check: left out, as one device may not hold the model; no saved tensor is empty")
        return True
    return False


def compute_dtype(trainer: Trainer) -> str:
    """Name the precision that the trainer computes in."""
    if trainer.args.bf16:
        return "bfloat16"
    if trainer.args.fp16:
        return "float16"
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in trainer.model.parameters()}
    return next((name for name in ("bfloat16", "float16") if name in dtypes), "float32")


def replace_model(trainer: Trainer, load_saved: Callable[[], PreTrainedModel]) -> None:
    """Let go of the trained model before the saved one is loaded: two would not fit a full GPU."""
    import gc

    import torch

    handler = trainer.callback_handler
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    handler.model = handler.optimizer = handler.lr_scheduler = None
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    unset_hf_deepspeed_config()  # or ZeRO-3 would cut up the model that is read back
    model = load_saved()
    trainer.model = trainer.model_wrapped = model.to(trainer.args.device) if trainer.place_model_on_device else model
