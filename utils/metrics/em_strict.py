"""The share of answers whose number after `#### ` is the reference's: GSM8K's own rule."""

from __future__ import annotations

from utils.metrics.math_answers import find_strict
from utils.metrics.metric import build_text_metric


def score_em_strict(prediction: str, reference: str) -> float | None:
    """Compare the strict answers as strings, as lm-eval's `gsm8k` (strict-match) does; "5.00" is not "5".

    Returns:
        0 or 1; None where the reference has no answer.
    """
    gold = find_strict(reference)
    return None if gold is None else float(find_strict(prediction) == gold)


METRIC = build_text_metric("em_strict", score_em_strict, "share of answers whose number after #### is right")
