"""Uncertainty of a score over resampled rows: the percentile bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from utils.metrics.classification import count_confusions
from utils.metrics.metric import Array, Metric, load_metric
from utils.metrics.scoring import check_rows

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 1_000_000  # values held at once: 8 MB per array


def bootstrap_interval(  # noqa: PLR0913 - the last three are keyword-only and rarely given
    metric: Metric | str,
    predictions: Array,
    references: Array,
    num_labels: int,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval over rows (Efron and Tibshirani 1993, ch. 13), on the metric's scale.

    A resample on which the metric is undefined (all drawn predictions are equal, for a correlation) counts as the
    metric's `undefined` value, usually 0, without a warning. Non-finite predictions give that value for both bounds.
    The same seed gives the same interval.

    Raises:
        KeyError: The metric is unknown.
        ValueError: As in `compute_metrics`, which takes the same rows.
    """
    import numpy as np

    metric = (load_metric(metric) if isinstance(metric, str) else metric).for_labels(num_labels)
    rows = check_rows(metric.kind, predictions, references, num_labels)
    if metric.score_rows is not None:
        scores = metric.score_rows(*rows)
        return bootstrap_mean(
            scores, num_resamples=num_resamples, confidence=confidence, seed=seed, undefined=metric.undefined
        )
    if not np.isfinite(rows[0]).all():
        return metric.undefined, metric.undefined
    rng = np.random.default_rng(seed)
    if metric.over_samples is None:
        parts = _score_one_by_one(metric, *rows, num_resamples, rng)
    elif metric.kind == "classification":
        parts = _score_confusions(metric, count_confusions(*rows, num_labels), num_resamples, rng)
    else:
        parts = _score_samples(metric, *rows, num_resamples, rng)
    scores = np.concatenate(list(parts))
    scores[np.isnan(scores)] = metric.undefined
    return _inner_interval(scores, confidence)


def bootstrap_mean(
    scores: Array, *, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0, undefined: float = 0.0
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a mean of row scores (n,); see `bootstrap_interval`.

    If all scores are 0 or 1, the mean is a proportion and its interval is Wilson's (1927; see Brown, Cai and DasGupta
    2001): resampling would call 0 of 8 certain. Rows of nan are not drawn, as they do not count in the mean; if no
    others are left, both bounds are `undefined`.
    """
    import numpy as np

    defined = scores[~np.isnan(scores)]
    if not defined.size:
        return undefined, undefined
    if np.isin(defined, (0.0, 1.0)).all():
        return wilson_interval(float(defined.mean()), defined.size, confidence)
    rng = np.random.default_rng(seed)
    sizes = _chunk_sizes(num_resamples, len(defined))
    means = [defined[rng.integers(len(defined), size=(size, len(defined)))].mean(axis=1) for size in sizes]
    return _inner_interval(np.concatenate(means), confidence)


def bootstrap_difference(
    base: Array,
    other: Array,
    *,
    weights: Array | None = None,
    of: Callable[[Array], Array] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of `other` minus `base`, scores (n,) of the same rows.

    Rows are drawn in pairs. Scores are averaged. With `weights` (n,), they are sums over that many items, and `of`
    turns both weighted means into the compared values, such as perplexities. Rows of nan in either are not drawn. If
    all scores are 0 or 1, it is Newcombe's interval of paired proportions (1998, method 10), as Wilson's is for a
    single one.
    """
    import numpy as np

    defined = ~(np.isnan(base) | np.isnan(other))
    if not defined.any():
        return 0.0, 0.0
    base, other = base[defined], other[defined]
    if weights is None and np.isin([base, other], (0.0, 1.0)).all():
        return _newcombe_interval(other, base)
    counts = np.ones(len(base)) if weights is None else weights[defined]
    compute = of or np.asarray
    rng, found = np.random.default_rng(seed), []
    for size in _chunk_sizes(num_resamples, len(base)):
        drawn = rng.integers(len(base), size=(size, len(base)))
        total = counts[drawn].sum(axis=1)
        found.append(compute(other[drawn].sum(axis=1) / total) - compute(base[drawn].sum(axis=1) / total))
    return _inner_interval(np.concatenate(found), 0.95)


def wilson_interval(share: float, num_rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's interval of a proportion of rows; see `bootstrap_mean`."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + confidence) / 2))
    spread = z * math.sqrt(share * (1 - share) / num_rows + (z / (2 * num_rows)) ** 2)
    scale, center = 1 + z**2 / num_rows, share + z**2 / (2 * num_rows)
    # Rounding may move a bound slightly past the proportion itself, or past 0 and 1.
    return max(0.0, min(share, (center - spread) / scale)), min(1.0, max(share, (center + spread) / scale))


def _newcombe_interval(one: Array, other: Array) -> tuple[float, float]:
    """Compute the 95 % interval of the proportion of `one` minus that of `other`, both 0 or 1 for the same rows."""
    import numpy as np

    shares = float(one.mean()), float(other.mean())
    (low, high), (other_low, other_high) = (wilson_interval(share, len(one)) for share in shares)
    spread = float(one.std() * other.std())
    shared = float(((one - shares[0]) * (other - shares[1])).mean()) / spread if spread else 0.0

    def join(side: float, other_side: float) -> float:
        return float(np.sqrt(max(side**2 - 2 * shared * side * other_side + other_side**2, 0.0)))

    middle = shares[0] - shares[1]
    below, above = join(shares[0] - low, other_high - shares[1]), join(high - shares[0], shares[1] - other_low)
    return middle - below, middle + above


def _inner_interval(scores: Array, confidence: float) -> tuple[float, float]:
    import numpy as np

    tail = (1 - confidence) / 2
    bounds: Array = np.quantile(scores, [tail, 1 - tail])
    return float(bounds[0]), float(bounds[1])


def _score_confusions(
    metric: Metric, confusion: Array, num_resamples: int, rng: np.random.Generator
) -> Iterator[Array]:
    """Draw confusion matrices, whose cells are multinomial when rows are drawn with replacement."""
    import numpy as np

    assert metric.over_samples is not None
    cells = confusion.ravel()
    filled = np.flatnonzero(cells)  # with many labels most cells are empty, and would be drawn as zeros one by one
    for size in _chunk_sizes(num_resamples, len(cells)):
        drawn: Array = np.zeros((size, len(cells)), dtype=np.int64)
        drawn[:, filled] = rng.multinomial(cells.sum(), cells[filled] / cells.sum(), size=size)
        yield metric.over_samples(drawn.reshape(size, *confusion.shape))


def _score_samples(
    metric: Metric, predictions: Array, references: Array, num_resamples: int, rng: np.random.Generator
) -> Iterator[Array]:
    """Draw rows and score many resamples at once."""
    assert metric.over_samples is not None
    num_rows = len(predictions)
    for size in _chunk_sizes(num_resamples, num_rows):
        drawn = rng.integers(num_rows, size=(size, num_rows))
        yield metric.over_samples(predictions[drawn], references[drawn])


def _score_one_by_one(
    metric: Metric, predictions: Array, references: Array, num_resamples: int, rng: np.random.Generator
) -> Iterator[Array]:
    """Draw rows and score each resample with the metric itself."""
    import numpy as np

    for _ in range(num_resamples):
        drawn = rng.integers(len(predictions), size=len(predictions))
        yield np.array([metric.score(predictions[drawn], references[drawn])])


def _chunk_sizes(num_resamples: int, width: int) -> Iterator[int]:
    size = max(1, _CHUNK // width)
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)
