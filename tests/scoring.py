"""Compute one metric, for tests."""

from __future__ import annotations

from typing import Any

from utils.metrics.scoring import compute_metrics


def compute_metric(name: str, predictions: Any, references: Any, num_labels: int) -> float:
    """Return the value of one metric, by its name."""
    [value] = compute_metrics([name], predictions, references, num_labels).values()
    return value
