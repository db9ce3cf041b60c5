"""The longest common subsequence of words with the reference, as package rouge_score counts it."""

from __future__ import annotations

from functools import cache
from typing import Any

from utils.metrics.metric import build_text_metric
from utils.metrics.words import build_rouge_scorer


def score_rouge_l(prediction: str, reference: str) -> float:
    """Compute ROUGE-L F1 (Lin 2004, W04-1013) by rouge_score, with stemming; a Chinese character is a word.

    It is not the value of package `rouge`, which LongBench uses.

    Returns:
        0 to 1; 0 where either has no word.
    """
    return float(_scorer().score(reference, prediction)["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    return build_rouge_scorer()


METRIC = build_text_metric("rouge_l", score_rouge_l, "longest common subsequence of words, as F1 (rouge_score)")
