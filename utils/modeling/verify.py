"""Compares the logits of two models on the same rows, and decides whether they are the same model.

Logits are float32 of shape (n, classes or vocabulary); a dtype is the one in which they were computed, or the weights
are stored: `float32`, `float16` or `bfloat16`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utils.core.errors import CheckError

if TYPE_CHECKING:
    import numpy as np

    Logits = np.ndarray[Any, Any]

logger = logging.getLogger(__name__)

_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of a logit, relative to the largest logit, that rounding explains."""
_TOLERANCE_ELSEWHERE = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 2e-1}
"""The same if another device or precision is used."""
_TOLERANCE_PACKED = {"f32": 1e-2, "f16": 2e-2, "bf16": 1e-1, "q8_0": 2e-1, "int8": 5e-1, "nf4": 1.0}
"""The same for weights stored in fewer bits; a larger difference is not explained by quantization."""
_MEASURABLE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 2e-2}
"""Smallest effect of an update, relative to the largest logit, that stands out from rounding."""
_LEAST_KEPT = 0.5
_NUM_RECORDED = 8  # largest logits of each position; a whole vocabulary would be megabytes


def describe_difference(expected: Logits, found: Logits) -> dict[str, Any]:
    """Measure how far apart two models' answers are.

    Returns:
        The largest and mean absolute difference of a logit; the share of equal top-1 answers, None for regression.
    """
    difference = abs(expected - found)
    agreement = None if expected.shape[-1] == 1 else float((expected.argmax(-1) == found.argmax(-1)).mean())
    return {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "top1_agreement": agreement,
    }


def prove_reloaded(trained: Logits, reloaded: Logits, dtype: str) -> dict[str, Any]:
    """Check that a model reloaded from disk is the one in memory.

    Raises:
        CheckError: The difference exceeds rounding, or the model has diverged.
    """
    largest = float(abs(trained).max())
    difference = float(abs(trained - reloaded).max())
    tolerance = _TOLERANCE[dtype] * max(largest, 1.0)
    if not math.isfinite(largest):
        raise CheckError(
            "the trained model answers with numbers that are not finite: it has diverged; lower "
            "training.learning_rate, or set training.max_grad_norm"
        )
    # Not `>`, so that NaN is rejected too, here and below.
    if not difference <= tolerance:
        raise CheckError(
            f"the saved model is not the trained one: after reloading, logits differ by {difference:.3g} (rounding in "
            f"{dtype} explains {tolerance:.3g}); the results describe the model in memory, not the files"
        )
    rows = len(trained)
    logger.info("reload check: %d rows, largest logit difference %.2g: the saved model is the trained one",
                rows, difference)  # fmt: skip
    return {"rows": rows, "largest_logit_difference": difference, "tolerance": tolerance}


def prove_merged(
    trained: Logits, without: Logits | None, merged: Logits, dtype: str, what: str = "merged model"
) -> dict[str, Any]:
    """Check that the merged model, reloaded from disk, answers like the adapter on its base.

    Two figures are checked: the largest difference, and the share of the update that is preserved (the projection of
    merged - without on trained - without: 1 if fully preserved, 0 if lost), which detects a lost update even if it
    changes less than the format's rounding. `without` is the model with the low-rank update disabled, or None.

    Raises:
        CheckError: The difference exceeds rounding, the update was lost, or logits are not finite.
    """
    import numpy as np

    if not np.isfinite(trained).all():
        raise CheckError("the adapter on its base answers with numbers that are not finite: its training has diverged")
    scale = max(float(abs(trained).max()), 1e-3)
    tolerance = _TOLERANCE[dtype] * scale
    report = describe_difference(trained, merged) | {"largest_logit": scale, "tolerance": tolerance}
    report |= _measure_update(trained, without, merged, scale * _MEASURABLE[dtype])
    if not report["largest_difference"] <= tolerance:
        raise CheckError(
            f"the {what} is not the trained one: read back from disk, its logits differ by "
            f"{report['largest_difference']:.3g} (rounding in {dtype} explains {tolerance:.3g}); nothing was kept"
        )
    if report["update_kept"] is not None and report["update_kept"] < _LEAST_KEPT:
        raise CheckError(
            f"the {what} keeps only {report['update_kept']:.0%} of what the adapter changes in the logits; if "
            f"{dtype} rounds the update away, merge with --dtype float32; nothing was kept"
        )
    return report


def prove_compressed(trained: Logits, found: Logits, kind: str, dtype: str) -> dict[str, Any]:
    """Measure the effect of fewer bits on a model reloaded from disk, and reject what they do not explain.

    `kind` is a type that models are written in: f32, f16, bf16, q8_0, int8, nf4; `dtype` is the dtype of both models'
    computation.

    Raises:
        CheckError: The difference exceeds what the bits explain, or logits are not finite.
    """
    scale = max(float(abs(trained).max()), 1e-3)
    tolerance = max(_TOLERANCE_PACKED[kind], _TOLERANCE[dtype]) * scale
    report = describe_difference(trained, found) | {"largest_logit": scale, "tolerance": tolerance}
    if not report["largest_difference"] <= report["tolerance"]:
        raise CheckError(
            f"the model in {kind} is not the trained one: read back from disk, its logits differ by "
            f"{report['largest_difference']:.3g} (so many bits explain {report['tolerance']:.3g}); nothing was kept"
        )
    return report


def prove_converted(
    trained: Logits, without: Logits, whole: Logits, computed: Logits, found: Logits, dtype: str
) -> dict[str, Any]:
    """Check that a reloaded LoRA is the one that was computed, and measure what it lost of the adapter.

    `whole` are the logits of the base with the adapter's full-rank updates added to its weights, `computed` those with
    the low-rank updates, both without reading files. A loss due to the rank is not an error but the rank's cost.

    Raises:
        CheckError: The updates are not all that the adapter does, the reloaded LoRA differs from the computed one, or
            logits are not finite.
    """
    prove_merged(trained, without, whole, dtype, "base with the updates that peft converts")
    proof = prove_merged(computed, without, found, dtype, "written LoRA")
    scale = proof["largest_logit"]
    effect = _measure_update(trained, without, found, scale * _MEASURABLE[dtype])
    rounding = {key: proof[key] for key in ("largest_difference", "tolerance")}
    return describe_difference(trained, found) | {"largest_logit": scale, "reread": rounding} | effect


def record_logits(logits: Logits, dtype: str) -> dict[str, Any]:
    """Return the largest logits of each position, by which `prove_recorded` recognizes the model."""
    import numpy as np

    ids = np.argsort(-logits, axis=-1)[:, :_NUM_RECORDED]
    kept = np.take_along_axis(logits, ids, axis=-1).astype(float).round(6)
    return {"dtype": dtype, "ids": ids.tolist(), "logits": kept.tolist()}


def prove_recorded(record: Mapping[str, Any], logits: Logits, dtype: str, base: str) -> dict[str, Any]:
    """Check that an adapter on its base is the model whose logits were recorded, perhaps on another machine.

    Raises:
        CheckError: It is another model.
        ValueError: The record is damaged.
    """
    import numpy as np

    try:
        measured, ids = np.array(record["logits"], dtype=float), np.array(record["ids"], dtype=np.int64)
        if measured.shape != ids.shape or not np.isfinite(measured).all():
            raise ValueError("ids and logits do not go together")
        tolerated = max(_TOLERANCE_ELSEWHERE[name] for name in (dtype, record["dtype"]))
        difference = float(abs(np.take_along_axis(logits, ids, axis=-1) - measured).max())
    except (IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error
    tolerance = max(float(abs(measured).max()), 1e-3) * tolerated
    if not difference <= tolerance:
        raise CheckError(
            f"the adapter on {base} is not the model that was trained: its logits differ by {difference:.3g} from "
            f"those that the run measured (another precision explains {tolerance:.3g}), so the base is another one or "
            "has changed, or the adapter has; nothing was kept"
        )
    return {"largest_difference": difference, "tolerance": tolerance}


def _measure_update(trained: Logits, without: Logits | None, merged: Logits, noise: float) -> dict[str, Any]:
    """Measure the update's effect and how much of it is preserved; None if rounding hides it."""
    if without is None:
        return {"update_effect": None, "update_kept": None}
    # A share, not a difference: it detects a lost update even if that is smaller than rounding.
    update = (trained - without).ravel()
    effect = float(abs(update).max())
    if effect <= noise:
        return {"update_effect": effect, "update_kept": None}
    kept = float((merged - without).ravel() @ update / (update @ update))
    return {"update_effect": effect, "update_kept": kept}
