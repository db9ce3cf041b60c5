"""The history of a run's evaluations: a combined score per step, the best one, and which are comparable."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.replace_file import utc_timestamp
from utils.evaluation.files import read_object, write_object
from utils.evaluation.identity import hash_json
from utils.evaluation.score import SetScore
from utils.evaluation.sets import EvaluationSet
from utils.metrics.longbench_score import CODE_SIMILARITIES
from utils.metrics.metric import load_metric

logger = logging.getLogger(__name__)

HISTORY = "eval_history.json"

Result = dict[str, Any]
"""Result of one set: its metrics, number of rows `n` and identity; or the reason of a failure under `error`."""


@dataclass(frozen=True)
class Entry:
    """One evaluation of all sets."""

    step: int
    combined_score: float | None
    """Sum over the sets; None: one of them failed, so that this step cannot be the best."""
    results: dict[str, Result]
    """Results by the set's label."""
    timestamp: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def list_metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics of the scored sets, by label."""
        return {
            label: {name: value for name, value in result.items() if isinstance(value, float)}
            for label, result in self.results.items()
            if "error" not in result
        }


class History:
    """All evaluations of a run, in the order of their steps.

    `scorer` judges for metrics with a choice of scorers; scores by different ones are never compared. `leakage` is the
    evaluation sets' overlap with the training rows.
    """

    def __init__(self, scorer: str, leakage: Sequence[Any] = (), entries: Sequence[Entry] = ()) -> None:
        self.scorer = scorer
        self.leakage = list(leakage)
        self.entries = sorted(entries, key=lambda entry: entry.step)

    @property
    def best(self) -> Entry | None:
        """The entry with the highest combined score, the first of equal ones; None: there is no score."""
        scored = [entry for entry in self.entries if entry.combined_score is not None]
        return max(scored, key=lambda entry: entry.combined_score or 0.0, default=None)

    def find(self, step: int) -> Entry | None:
        """Find the evaluation of a step."""
        return next((entry for entry in self.entries if entry.step == step), None)

    def add(self, entry: Entry) -> None:
        """Add an evaluation, replacing an earlier one of the same step."""
        kept = [each for each in self.entries if each.step != entry.step]
        self.entries = sorted([*kept, entry], key=lambda each: each.step)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of eval_history.json."""
        best = self.best
        return {
            "best_step": best.step if best else None,
            "best_score": best.combined_score if best else None,
            "scorer": self.scorer,
            "leakage": self.leakage,
            "history": [
                {key: values[key] for key in ("step", "combined_score", "timestamp", "results")}
                for values in map(asdict, self.entries)
            ],
        }

    def write(self, folder: Path) -> None:
        """Write eval_history.json atomically."""
        write_object(folder / HISTORY, self.to_dict())


def read_history(folder: Path) -> History | None:
    """Read a run folder's eval_history.json; None if there is none.

    Raises:
        UserError: It is not a history.
    """
    path = folder / HISTORY
    data = read_object(path)
    if data is None and not path.exists():
        return None
    try:
        assert data is not None
        entries = [Entry(**{key: each[key] for key in Entry.__dataclass_fields__}) for each in data["history"]]
        return History(data["scorer"], data["leakage"], entries)
    except (AssertionError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a history of evaluations; rename it, and the run starts a new one") from error


def open_history(
    folder: Path, scorer: str, leakage: Sequence[Any], sets: Sequence[EvaluationSet], step: int
) -> History:
    """Open the history of a run that starts or resumes at a step; entries that do not belong to it are set aside.

    Entries of later steps, which this session will repeat, and those of other rows or prompts are moved to a separate
    file, with a warning.

    Raises:
        UserError: The history is by another scorer.
    """
    found = read_history(folder)
    if found is None:
        return History(scorer, leakage)
    if found.entries and found.scorer != scorer:
        raise UserError(
            f"{folder / HISTORY}: its scores are by the scorer {found.scorer} and are not comparable with those by "
            f"{scorer}; resume with evaluation.truthfulqa.scorer: {found.scorer}, or start another run"
        )
    asked = {each.label: hash_asked(each) for each in sets}
    kept = [each for each in found.entries if each.step <= step and _is_of_sets(each, asked)]
    aside = [each for each in found.entries if each not in kept]
    if aside:
        target = folder / f"eval_history.{utc_timestamp()}.json"
        write_object(target, History(found.scorer, found.leakage, aside).to_dict())
        steps = ", ".join(str(each.step) for each in aside)
        logger.warning("evaluations of other sets or of steps to be repeated (%s) are set aside in %s", steps, target)
    return History(scorer, leakage, kept)


def build_entry(step: int, scores: Mapping[str, SetScore | str], sets: Sequence[EvaluationSet]) -> Entry:
    """Build the entry of a step; `scores` has the score of each set by label, or the reason of a failure."""
    results: dict[str, Result] = {}
    for each in sets:
        score = scores[each.label]
        if isinstance(score, str):
            results[each.label] = {"error": score}
        else:
            results[each.label] = {**score.metrics, "n": score.n, "asked": hash_asked(each)}
    return Entry(step, combine_scores(scores, sets), results)


def combine_scores(scores: Mapping[str, SetScore | str], sets: Sequence[EvaluationSet]) -> float | None:
    """Sum the sets' combined metrics; None if any is missing."""
    values: list[float | None] = []
    for each in sets:
        score = scores[each.label]
        metrics: Mapping[str, float] = {} if isinstance(score, str) else score.metrics
        counting = each.combined_metrics or (load_metric(each.metrics[0]).name,)
        values += [metrics.get(name) for name in counting]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(sum(known)) if known and len(known) == len(values) else None


def hash_asked(known: EvaluationSet) -> str:
    """Hash what is asked of a set: scores of two steps are comparable only if it is the same."""
    names = [load_metric(name).name for name in known.metrics]
    scorer = None if known.scorer == CODE_SIMILARITIES[0] else known.scorer  # earlier versions did not record it
    facts = [known.prompt_hash, known.fingerprint, len(known.ids), known.num_cut, known.prompt_limit, scorer]
    return hash_json([*facts, names])


def _is_of_sets(entry: Entry, asked: Mapping[str, str]) -> bool:
    """Return whether an entry is of these sets; a failed one does not tell."""
    same = all(result.get("asked", asked.get(label)) == asked.get(label) for label, result in entry.results.items())
    return same and entry.results.keys() == asked.keys()
