"""How many words a text shares with its reference, as the harmonic mean of precision and recall."""

from __future__ import annotations

from collections import Counter

from utils.metrics.metric import build_text_metric
from utils.metrics.words import split_answer


def score_token_f1(prediction: str, reference: str) -> float:
    """Compute SQuAD's F1 over words (Rajpurkar et al. 2016, arXiv:1606.05250; evaluate-v2.0.py).

    Returns:
        0 to 1; where either has no word, 1 when both have none, else 0.
    """
    predicted, expected = split_answer(prediction), split_answer(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    num_shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * num_shared / (len(predicted) + len(expected))


METRIC = build_text_metric("token_f1", score_token_f1, "words shared with the reference, as F1")
