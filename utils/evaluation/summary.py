"""Scores records of answers, and sums them up to the score of a set without keeping them."""

from __future__ import annotations

import logging
from array import array
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from utils.evaluation.score import SetScore
from utils.metrics.bootstrap import bootstrap_mean
from utils.metrics.metric import average_rows, load_metric

if TYPE_CHECKING:
    from utils.evaluation.predictions import Record
    from utils.evaluation.sets import EvaluationSet

logger = logging.getLogger(__name__)


def score_records(records: list[Record], known: EvaluationSet) -> None:
    """Put each row's scores into its record; null where a metric is not defined on a row."""
    import numpy as np

    if not records:
        return
    predictions = [record["prediction"] for record in records]
    references = [known.references[record["row"]] for record in records]
    columns = {}
    for metric in map(load_metric, known.metrics):
        assert metric.score_rows is not None, f"got the metric {metric.name} of {metric.kind}"
        columns[metric.name] = metric.score_rows(predictions, references)
    for index, record in enumerate(records):
        scores = {name: float(column[index]) for name, column in columns.items()}
        record["scores"] = {name: None if np.isnan(score) else score for name, score in scores.items()}


def describe_set(known: EvaluationSet) -> dict[str, Any]:
    """Give what a score says of its set under the same name."""
    shared = {each.name for each in fields(SetScore)} & {each.name for each in fields(known)} - {"metrics"}
    return {name: getattr(known, name) for name in sorted(shared)}


class Summary:
    """What is kept of records to score their set: a number for each metric of each row.

    Args:
        known: The set.
        identity: What decides the answers, by part.
    """

    def __init__(self, known: EvaluationSet, identity: dict[str, Any]) -> None:
        self._known = known
        self._identity = identity
        self._columns = {load_metric(name).name: array("d") for name in known.metrics}
        self._num_tokens = self._num_unfinished = self._n = 0
        self._seconds = 0.0

    def add(self, record: Record) -> None:
        """Take in one record that is scored."""
        for name, column in self._columns.items():
            score = record["scores"][name]
            column.append(float("nan") if score is None else score)
        self._n += 1
        self._num_tokens += record["num_tokens"]
        self._num_unfinished += not record["finished"]
        self._seconds += record["seconds"]

    def close(self) -> SetScore:
        """Average what was taken in; a metric that is defined on no row is left out, which is said."""
        import numpy as np

        known = self._known
        every = {name: np.array(column, dtype=np.float64) for name, column in self._columns.items()}
        columns = {name: column for name, column in every.items() if not np.isnan(column).all()}
        if absent := [name for name in every if name not in columns]:
            logger.warning("%s: no reference has an answer for %s; left out", known.label, ", ".join(absent))
        seconds = self._seconds
        return SetScore(
            **describe_set(known),
            metrics={name: average_rows(column) for name, column in columns.items()},
            interval={name: bootstrap_mean(column) for name, column in columns.items()},
            num_scored={name: int((~np.isnan(column)).sum()) for name, column in columns.items()},
            n=self._n,
            partial=self._n < known.num_total,
            generation=self._identity["generation"],
            mean_tokens=self._num_tokens / max(self._n, 1),
            num_unfinished=self._num_unfinished,
            seconds=round(seconds, 3),
            tokens_per_s=round(self._num_tokens / seconds, 1) if seconds else 0.0,
            identity={key: value for key, value in self._identity.items() if key != "generation"},
        )
