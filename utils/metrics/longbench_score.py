"""LongBench's own score of a row, whichever the row's subset is scored by."""

from __future__ import annotations

from typing import Any

from utils.metrics.longbench import score_prediction
from utils.metrics.metric import build_text_metric


def score_longbench(prediction: str, reference: dict[str, Any]) -> float:
    """Score an answer as LongBench's scorer does (Bai et al. 2023, arXiv:2308.14508): the best over the right answers.

    Args:
        prediction: What was generated, with nothing taken off.
        reference: The row's `subset`, its `answers` and, for classification, `all_classes`.

    Returns:
        0 to 1; 0 where there is no right answer. The benchmark's own tables show the mean x100.
    """
    subset = str(reference["subset"]).removesuffix("_e")
    return score_prediction(subset, prediction, reference["answers"], reference.get("all_classes") or ())


METRIC = build_text_metric(
    "longbench_score",
    score_longbench,
    "the official score of a LongBench row",
    reference_keys=("subset", "answers"),
)
