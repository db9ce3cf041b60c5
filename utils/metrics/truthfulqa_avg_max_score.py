"""How near answers to TruthfulQA come to what is right."""

from __future__ import annotations

from typing import Any

from utils.metrics.metric import build_text_metric
from utils.metrics.truthfulqa_scores import REFERENCE_KEYS, score_nearness


def score_max(prediction: str, reference: dict[str, Any]) -> float:
    """Give the greatest similarity of the answer to a right reference, by the reference's scorer.

    Returns:
        0 to 1 by rougeL; bleurt may go below and above. 0 where there is no right reference.
    """
    return score_nearness(prediction, reference)[0]


METRIC = build_text_metric(
    "truthfulqa_avg_max_score", score_max, "similarity to the nearest right reference", reference_keys=REFERENCE_KEYS
)
