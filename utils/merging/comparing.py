"""Compares the logits of two models, and finds a merge that is not the trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from utils.core.errors import CheckError

if TYPE_CHECKING:
    import numpy as np

    Logits = np.ndarray[Any, Any]

_TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of a logit, relative to the largest logit, that rounding the merged weights explains."""
_MEASURABLE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 2e-2}
"""What the update has to change, relative to the largest logit, to stand out of rounding."""
_LEAST_KEPT = 0.5


def describe_difference(expected: Logits, found: Logits) -> dict[str, Any]:
    """Describe how far apart two models' answers are.

    Args:
        expected: Shape (n, classes or vocabulary).
        found: The same shape.

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


def prove_equal(trained: Logits, without: Logits | None, merged: Logits, dtype: str) -> dict[str, Any]:
    """Prove that the merged model answers as the adapter on its base does.

    Two figures are judged: the largest difference, and the share of the update that is found again (the
    projection of merged - without on trained - without: 1 when it is all there, 0 when it was lost), which
    finds a lost update where it changes less than rounding in the format may.

    Args:
        trained: Logits of the adapter on its base.
        without: Logits of the same model with the low-rank update switched off, None if it cannot be.
        merged: Logits of the merged model, read back from disk.
        dtype: What the weights are stored in, `float32`, `float16` or `bfloat16`.

    Returns:
        The figures, with `tolerance` and `largest_logit`.

    Raises:
        CheckError: The difference is more than rounding, the update was lost, or numbers are not finite.
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
            f"the merged model is not the trained one: read back from disk, its logits differ by "
            f"{report['largest_difference']:.3g} (rounding in {dtype} explains {tolerance:.3g}); nothing was kept"
        )
    if report["update_kept"] is not None and report["update_kept"] < _LEAST_KEPT:
        raise CheckError(
            f"the merged model keeps only {report['update_kept']:.0%} of what the adapter changes in the logits; if "
            f"{dtype} rounds the update away, merge with --dtype float32; nothing was kept"
        )
    return report


def _measure_update(trained: Logits, without: Logits | None, merged: Logits, noise: float) -> dict[str, Any]:
    """Measure what the update changes, and how much of it is found again; None where it drowns in rounding."""
    if without is None:
        return {"update_effect": None, "update_kept": None}
    update = (trained - without).ravel()
    effect = float(abs(update).max())
    if effect <= noise:
        return {"update_effect": effect, "update_kept": None}
    kept = float((merged - without).ravel() @ update / (update @ update))
    return {"update_effect": effect, "update_kept": kept}
