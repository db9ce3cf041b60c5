"""The share of answers whose number after `The answer is: ` is right, by MetaMath's rule."""

from __future__ import annotations

from utils.metrics.math_answers import find_meta_math, find_whole_reference
from utils.metrics.metric import build_text_metric


def score_em_metamath(prediction: str, reference: str) -> float | None:
    """Compare rounded numbers as meta-math/MetaMath (eval_gsm8k.py) does.

    Returns:
        0 or 1; None where the reference gives no whole number.
    """
    gold = find_whole_reference(reference)
    if gold is None:
        return None
    found = find_meta_math(prediction)
    return float(found is not None and float(found) == float(gold))


METRIC = build_text_metric(
    "em_metamath", score_em_metamath, "share of answers whose number after 'The answer is: ' is right"
)
