"""The share of answers whose last number is the reference's, whatever stands around it."""

from __future__ import annotations

from utils.metrics.math_answers import find_flexible, find_strict
from utils.metrics.metric import build_text_metric


def score_em_flexible(prediction: str, reference: str) -> float | None:
    """Compare the last number with the reference's as strings, as lm-eval's `gsm8k` (flexible-extract) does.

    Returns:
        0 or 1; None where the reference has no answer after `#### `.
    """
    gold = find_strict(reference)
    return None if gold is None else float(find_flexible(prediction) == gold)


METRIC = build_text_metric("em_flexible", score_em_flexible, "share of answers whose last number is right")
