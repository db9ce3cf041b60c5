"""Our metrics as `evaluate.Metric` objects, for code that speaks that library; they need no network."""

from __future__ import annotations

import json
from functools import cache
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from utils.metrics.metric import Metric, load_metric

if TYPE_CHECKING:
    import evaluate


def build_evaluate_metric(name: str, num_labels: int) -> evaluate.Metric:
    """Build a metric that takes `add_batch` and `compute`, and gives what `Metric.compute` gives.

    `evaluate.load` fetches the metric's code from the hub; this is a local class.

    Args:
        name: A metric's name or alias.
        num_labels: Number of labels; 1 for regression and generation.

    Returns:
        The object; its `compute` gives `{result key: value}`. What a text is judged by is a text; where the metric
        needs an object (`Metric.reference_keys`), it is that object as JSON.

    Raises:
        KeyError: The metric is unknown.
    """
    metric = load_metric(name).for_labels(num_labels)
    return _metric_class()(metric, num_labels)


@cache
def _metric_class() -> Any:
    """Make the class on first use: importing evaluate takes seconds."""
    import datasets
    import evaluate

    class LocalMetric(evaluate.Metric):
        """A metric of this library, rows kept in memory."""

        def __init__(self, metric: Metric, num_labels: int) -> None:
            self._metric = metric
            self._num_labels = num_labels
            # The library makes its cache folder even when nothing is written there; a home may be read-only.
            self._folder = TemporaryDirectory(prefix="lora_ns_metric_")
            super().__init__(config_name=metric.name, keep_in_memory=True, cache_dir=self._folder.name)

        def _info(self) -> Any:
            dtype = {"classification": "int64", "regression": "float64", "generation": "string"}[self._metric.kind]
            return evaluate.MetricInfo(
                description=self._metric.description,
                citation="",
                inputs_description=f"predictions, references: one {dtype} per row",
                features=datasets.Features({"predictions": datasets.Value(dtype), "references": datasets.Value(dtype)}),
                format=None,  # "numpy" would read float64 back as float32
            )

        def _compute(self, *, predictions: Any = None, references: Any = None, **_: Any) -> dict[str, float]:
            if self._metric.reference_keys:
                references = [json.loads(each) for each in references]
            return {self._metric.name: self._metric.compute(predictions, references, self._num_labels)}

    return LocalMetric
