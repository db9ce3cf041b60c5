"""The score of a model on one set: computing it from answers, reading it, and whether two scores are comparable."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from utils.evaluation.prompts import Asked
from utils.metrics.bootstrap import bootstrap_mean
from utils.metrics.longbench_score import CODE_SIMILARITIES
from utils.metrics.metric import Array, Reference, average_rows, load_metric
from utils.metrics.scoring import compute_metrics

if TYPE_CHECKING:
    from utils.evaluation.files import Record
    from utils.evaluation.sets import EvaluationSet

logger = logging.getLogger(__name__)

_SETTINGS = {
    "max_new_tokens": None, "min_new_tokens": 0, "temperature": None, "top_p": None, "top_k": None, "stop": None,
}  # fmt: skip
"""Settings that must agree, each with the value of scores written before the setting existed."""


@dataclass(frozen=True, kw_only=True)
class SetScore(Asked):
    """Score of a model on one set."""

    metrics: dict[str, float]
    """Values from 0 to 1 by metric, the headline first."""
    interval: dict[str, tuple[float, float]]
    """95 % bootstrap interval over rows, by metric."""
    num_scored: dict[str, int]
    """Number of rows averaged for each metric: those whose reference has an answer for it."""
    n: int
    """Number of answered rows."""
    num_answers: int = 1
    """Number of answers per row."""
    partial: bool
    """Whether fewer rows were answered than the split has."""
    generation: dict[str, Any]
    """Settings that determine the answers."""
    mean_tokens: float
    """Mean number of tokens per answer."""
    num_unfinished: int
    """Number of answers cut at the maximum length."""
    seconds: float
    """Seconds of generating, over all sessions."""
    tokens_per_s: float
    """Generated tokens per second, over all processes."""
    groups: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Results of each group of rows (level, subject), by its name: metrics, interval, num_scored, n."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Hashes of prompts, settings and weights: a later call continues only if they agree."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of results.json, scores first."""
        whole = asdict(self)
        return {name: whole[name] for name in ("label", "metrics", "interval", "num_scored", "n")} | whole

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SetScore:
        """Read the result of `to_dict`, also after a round trip through JSON."""
        known = {each.name: data[each.name] for each in fields(cls) if each.name in data}
        return cls(**{**known, "interval": {key: tuple(value) for key, value in data["interval"].items()}})


def comparable(one: SetScore | Mapping[str, Any], other: SetScore | Mapping[str, Any]) -> str | None:
    """Return why two scores, or their results.json contents, must not be compared; None if they may be."""
    left, right = (each.to_dict() if isinstance(each, SetScore) else each for each in (one, other))
    if left["partial"] != right["partial"]:
        part, whole = (left, right) if left["partial"] else (right, left)
        return f"one is partial ({part['n']} of {part['num_total']} rows), the other is over all {whole['n']}"
    if left["n"] != right["n"]:
        return f"one is over {left['n']} rows, the other over {right['n']}"
    named = {
        "protocol": "protocols", "shots": "numbers of examples in the prompt", "prompt_hash": "prompts",
        "fingerprint": "rows", "num_cut": "numbers of prompts cut", "prompt_limit": "lengths that prompts were cut to",
        "scorer": "scorers",
    }  # fmt: skip
    for key, what in named.items():
        values = left.get(key), right.get(key)
        # Earlier versions did not record the code similarity.
        if values[0] != values[1] and {*values} != {None, CODE_SIMILARITIES[0]}:
            return f"they have different {what}: {values[0]} and {values[1]}"
    for key, absent in _SETTINGS.items():
        values = left["generation"].get(key, absent), right["generation"].get(key, absent)
        if values[0] != values[1]:
            return f"they were written with generation.{key} {values[0]} and {values[1]}"
    return None


def score_records(records: list[Record], known: EvaluationSet) -> None:
    """Add each row's scores to its record; null for a metric that is undefined on the row."""
    import numpy as np

    if not records:
        return
    predictions = [record["prediction"] for record in records]
    references = [known.references[record["row"]] for record in records]
    columns = {}
    for metric in map(load_metric, known.metrics):
        if metric.score_rows is not None:  # else it needs all rows at once, at the end
            columns[metric.name] = metric.score_rows(predictions, references)
    for index, record in enumerate(records):
        scores = {name: float(column[index]) for name, column in columns.items()}
        record["scores"] = {name: None if np.isnan(score) else score for name, score in scores.items()}


def describe_asked(known: Asked) -> dict[str, Any]:
    """Return the fields that a score shares with its set."""
    return {each.name: getattr(known, each.name) for each in fields(Asked)}


def summarize(columns: Mapping[str, Array]) -> dict[str, Any]:
    """Return metrics, interval and num_scored of row scores (n,) by metric, without metrics undefined on all rows."""
    import numpy as np

    defined = {name: column for name, column in columns.items() if not np.isnan(column).all()}
    return {
        "metrics": {name: average_rows(column) for name, column in defined.items()},
        "interval": {name: bootstrap_mean(column) for name, column in defined.items()},
        "num_scored": {name: int((~np.isnan(column)).sum()) for name, column in defined.items()},
    }


def summarize_groups(
    columns: Mapping[str, Array], groups: Sequence[Mapping[str, str]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarize each group of rows separately; `groups` maps, for each row, each kind of group to its value."""
    import numpy as np

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in sorted({kind for each in groups for kind in each}):
        names = [each.get(kind) for each in groups]
        for name in sorted({name for name in names if name is not None}):
            chosen: Array = np.array([each == name for each in names])
            part = summarize({metric: column[chosen] for metric, column in columns.items()})
            bounds = {metric: list(pair) for metric, pair in part["interval"].items()}  # as read back from JSON
            found.setdefault(kind, {})[name] = {**part, "interval": bounds, "n": int(chosen.sum())}
    return found


class Summary:
    """Accumulates what scoring a set needs of its records: a number per row and metric."""

    def __init__(self, known: EvaluationSet, identity: dict[str, Any]) -> None:
        self._known = known
        self._identity = identity
        self._metrics = [load_metric(name) for name in known.metrics]
        self._columns = {each.name: array("d") for each in self._metrics if each.score_rows is not None}
        self._texts: list[tuple[str, Reference]] = []  # for metrics that need all rows at once
        self._num_tokens = self._num_unfinished = self._n = 0
        self._seconds = 0.0

    def add(self, record: Record) -> None:
        """Add one scored record."""
        for name, column in self._columns.items():
            score = record["scores"][name]
            column.append(float("nan") if score is None else score)
        if len(self._columns) < len(self._metrics):
            self._texts.append((record["prediction"], self._known.references[record["row"]]))
        self._n += 1
        self._num_tokens += record["num_tokens"]
        self._num_unfinished += not record["finished"]
        self._seconds += record["seconds"]

    def close(self) -> SetScore:
        """Average the records; a metric that is undefined on all rows is left out, with a warning."""
        import numpy as np

        known = self._known
        size, columns = known.num_answers, {}
        for name, column in self._columns.items():
            scores = np.array(column, dtype=np.float64)
            if size > 1:
                metric = load_metric(name)
                scores = np.array([metric.join_answers(of_row) for of_row in scores.reshape(-1, size)])
            columns[name] = scores
        summary = summarize(columns)
        summary["metrics"] = self._order(summary["metrics"])
        if absent := [name for name in columns if name not in summary["metrics"]]:
            logger.warning("%s: no reference has an answer for %s; left out", known.label, ", ".join(absent))
        seconds = self._seconds
        return SetScore(
            **describe_asked(known),
            **summary,
            groups=summarize_groups(columns, known.groups[::size]) if any(known.groups) else {},
            n=self._n // size,
            num_answers=size,
            partial=self._n // size < known.num_total,
            generation=self._identity["generation"],
            mean_tokens=self._num_tokens / max(self._n, 1),
            num_unfinished=self._num_unfinished,
            seconds=round(seconds, 3),
            tokens_per_s=round(self._num_tokens / seconds, 1) if seconds else 0.0,
            identity={key: value for key, value in self._identity.items() if key != "generation"},
        )

    def _order(self, found: dict[str, float]) -> dict[str, float]:
        """Add the metrics that need all rows at once, and sort all into the set's order."""
        texts, references = zip(*self._texts, strict=True) if self._texts else ((), ())
        of_all = [each.name for each in self._metrics if each.score_rows is None]
        every = {**found, **(compute_metrics(of_all, texts, references, 1) if of_all else {})}
        return {each.name: every[each.name] for each in self._metrics if each.name in every}
