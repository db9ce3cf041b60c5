"""The share of texts that equal their reference."""

from __future__ import annotations

from utils.metrics.metric import build_text_metric


def score_exact_match(prediction: str, reference: str) -> float:
    """Give 1 when both are the same but for white space around them, else 0."""
    return float(prediction.strip() == reference.strip())


METRIC = build_text_metric("exact_match", score_exact_match, "share of texts that equal their reference")
