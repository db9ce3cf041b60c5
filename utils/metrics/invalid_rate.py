"""The share of answers without any number after `#### `: what em_strict cannot read."""

from __future__ import annotations

from utils.metrics.math_answers import find_strict
from utils.metrics.metric import build_text_metric


def score_invalid(prediction: str, reference: str) -> float:
    """Give 1 for a prediction without a strict answer, else 0; the reference does not matter."""
    return float(find_strict(prediction) is None)


METRIC = build_text_metric(
    "invalid_rate", score_invalid, "share of answers without a number after ####", greater_is_better=False
)
