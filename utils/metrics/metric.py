"""The definition of a metric, and the lookup of metrics by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, TypeAlias

from utils.config.sections.evaluation import EVALUATE_PREFIX
from utils.core import registry
from utils.core.errors import ConfigError, Problem, UserError

Array: TypeAlias = Any
"""A numpy array; docstrings state its shape."""
Kind = Literal["classification", "regression", "generation"]
Reference: TypeAlias = "str | dict[str, Any]"
"""What a generated text is scored against: a text, or an object with what the metric needs."""

METRIC_ALIASES = {
    "acc": "accuracy",
    "mcc": "matthews_correlation",
    "matthews_corrcoef": "matthews_correlation",
    "pearsonr": "pearson",
    "spearman": "spearmanr",
    "mean_squared_error": "mse",
    "rougel": "rouge_l",
}


@dataclass(frozen=True)
class Metric:
    """A score over all rows of a set, with its range and direction."""

    name: str
    """Name as in the YAML."""
    kind: Kind
    low: float
    """Lowest possible value."""
    high: float
    """Highest possible value; tables show scores with a range up to 1 x100."""
    greater_is_better: bool
    score: Callable[[Array, Array], float]
    """Maps predictions (n,) and references (n,) to the value; nan if undefined."""
    description: str
    score_rows: Callable[[Sequence[str], Sequence[Reference]], Array] | None = None
    """Generation only: maps texts to one score per row, shape (n,), nan for rows on which the metric is undefined. The
    metric is the mean over the other rows."""
    reference_keys: tuple[str, ...] = ()
    """Generation only: keys of the object that a text is scored against; (): a text."""
    over_answers: Callable[[Array], float] | None = None
    """Generation only: maps the scores of several answers to a row (answers,) to the row's score; None: their mean."""
    num_answers: int = 1
    """Generation only: minimum number of answers to each row."""
    runs_code: bool = False
    """Generation only: whether it runs the model's output as code, which the user has to allow."""
    over_samples: Callable[..., Array] | None = None
    """Like `score` for many resamples at once, shape (r,), nan if undefined; None: they are scored one by one.

    Classification takes confusion matrices (r, labels, labels) with rows as references; regression takes predictions
    (r, n) and references (r, n)."""
    prepare: Callable[[], Any] = lambda: None
    """Loads what it needs, so that missing parts are reported before a model is loaded.

    Raises:
        ConfigError: Something is missing."""
    fits_any: bool = False
    """Whether it takes labels and values as well as texts, scoring all rows at once without row scores."""
    many_labels: str | None = None
    """Name of the metric that replaces this one if there are more than two labels."""
    undefined: float = 0.0
    """Value that replaces nan."""

    def for_labels(self, num_labels: int) -> Metric:
        """Return the metric to use for this number of labels: `f1` becomes `f1_macro` for three."""
        if self.fits_any and num_labels > 1:
            return replace(self, kind="classification")
        return load_metric(self.many_labels) if self.many_labels and num_labels > 2 else self

    def join_answers(self, scores: Array) -> float:
        """Combine the scores of several answers to a row (answers,): by default their mean, nan if none is defined."""
        return average_rows(scores) if self.over_answers is None else self.over_answers(scores)

    def takes(self, reference: Reference) -> bool:
        """Return whether a generated text can be scored against this reference."""
        if not self.reference_keys:
            return isinstance(reference, str)
        return isinstance(reference, dict) and set(self.reference_keys) <= set(reference)


def build_text_metric(
    name: str,
    score_row: Callable[[str, Any], float | None],
    description: str,
    *,
    greater_is_better: bool = True,
    reference_keys: tuple[str, ...] = (),
) -> Metric:
    """Build a metric of generated texts, 0 to 1.

    `score_row` takes a prediction and its reference (an object if there are `reference_keys`, else a text), and returns
    0 to 1, or None if the metric is undefined for the reference.

    Raises:
        TypeError: It takes other arguments.
    """
    if wrong := registry.explain_call("score_row", score_row, "prediction, reference"):
        raise TypeError(wrong)

    def score_rows(predictions: Sequence[str], references: Sequence[Reference]) -> Array:
        import numpy as np

        judged = [_require_keys(name, each, reference_keys) if reference_keys else str(each) for each in references]
        scores = [score_row(str(each), right) for each, right in zip(predictions, judged, strict=True)]
        for score in scores:
            if score is not None and not isinstance(score, int | float | np.number | np.bool_):
                raise UserError(f"the metric {name} returned {score!r} for a row; score_row returns 0 to 1, or None")
        return np.array([np.nan if score is None else score for score in scores], dtype=np.float64)

    def score(predictions: Array, references: Array) -> float:
        return average_rows(score_rows(predictions, references))

    return Metric(
        name, "generation", 0.0, 1.0, greater_is_better, score, description, score_rows, reference_keys=reference_keys
    )


def average_rows(scores: Array) -> float:
    """Average the rows (n,) on which a text metric is defined; nan if there are none."""
    import numpy as np

    defined = scores[~np.isnan(scores)]
    return float(defined.mean()) if defined.size else float("nan")


def require_package(module: str, install: str, what: str) -> Any:
    """Import a package that only some metrics need.

    Raises:
        ConfigError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        message = f"{what} needs a package that is not installed; run pip install '{install}'"
        raise ConfigError([Problem(message, code="unsupported")]) from error


def load_metric(name: str) -> Metric:
    """Load a metric by its name or alias.

    Raises:
        KeyError: There is no such metric; `registry.names("metrics")` lists all names.
    """
    if name.startswith(EVALUATE_PREFIX):
        return _build_by_evaluate(name)
    name = registry.normalize(name)
    name = METRIC_ALIASES.get(name, name)
    metric = registry.load("metrics", name).METRIC
    assert isinstance(metric, Metric), f"got {type(metric)} in the metric {name}"
    return _check_scores(metric) if registry.is_added("metrics", name) else metric


def _check_scores(metric: Metric) -> Metric:
    """Look at what a user's own metric gives for rows: one number each, nan where it has none."""
    if (score_rows := metric.score_rows) is None:
        return metric

    def score_checked(predictions: Sequence[str], references: Sequence[Reference]) -> Array:
        import numpy as np

        given = score_rows(predictions, references)
        try:
            scores = np.array(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"metrics: {metric.name} gave {type(given).__name__}, not a list of numbers") from error
        if scores.shape != (len(predictions),):
            raise UserError(f"metrics: {metric.name} gave scores of shape {scores.shape} for {len(predictions)} texts")
        if np.isinf(scores).any():
            raise UserError(f"metrics: {metric.name} gave an infinite score; nan says that a row has none")
        outside = scores[(scores < metric.low) | (scores > metric.high)]
        if outside.size:
            message = (
                f"metrics: {metric.name} gave {outside[0]:g}, outside of its range of {metric.low:g} to {metric.high:g}"
            )
            raise UserError(message)
        return scores

    return replace(metric, score_rows=score_checked)


def _build_by_evaluate(name: str) -> Metric:
    from utils.metrics.from_evaluate import build_fields

    described = "a metric of the library evaluate, over all rows at once"
    infinite = float("inf")
    return Metric(name, "generation", -infinite, infinite, description=described, fits_any=True, **build_fields(name))


def metric_names(kind: Kind) -> tuple[str, ...]:
    """Return the metrics that every run of a kind reports, sorted; `f1` also stands for `f1_macro`."""
    metrics = [load_metric(name) for name in registry.names("metrics")]
    # f1_macro replaces f1 if there are more than two labels, and is not reported in addition.
    stand_ins = {metric.many_labels for metric in metrics}
    return tuple(metric.name for metric in metrics if metric.kind == kind and metric.name not in stand_ins)


def result_key(name: str, num_labels: int) -> str:
    """Return the key under which a metric's value is reported: `f1` of three labels is `f1_macro`."""
    return load_metric(name).for_labels(num_labels).name


def _require_keys(name: str, reference: Reference, keys: tuple[str, ...]) -> Reference:
    if isinstance(reference, dict) and set(keys) <= set(reference):
        return reference
    raise ValueError(f"{name} judges by an object with {', '.join(keys)}; got {str(reference)[:60]!r}")
