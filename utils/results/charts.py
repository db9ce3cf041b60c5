"""Charts before they are drawn: lines, points, values with intervals; their ticks, smoothing and thinning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Kind = Literal["line", "faint", "dots"]

_MOST_POINTS = 400  # per line: more are invisible, and make a page slow
_LOG_FROM = 100  # times the smallest value
_NUM_TICKS = 5


@dataclass(frozen=True)
class Series:
    """Named points."""

    name: str
    points: tuple[Point, ...]
    """A value that is not finite leaves a gap in the line."""
    kind: Kind = "line"
    """faint: drawn thin and pale, behind the others."""
    color: int = 0
    """Index of the colour; after the last one, colours repeat with other marks and dashes."""


@dataclass(frozen=True)
class Chart:
    """Series over one axis."""

    title: str
    """Label of the vertical axis."""
    x_label: str
    series: tuple[Series, ...]
    is_log_x: bool = False
    is_log_y: bool = False


@dataclass(frozen=True)
class Bar:
    """A value with its interval, for a bar chart."""

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""
    """Shown if there is no value."""
    color: int = 0


@dataclass(frozen=True)
class BarChart:
    """Values with their intervals, one below the other on one axis."""

    title: str
    x_label: str
    bars: tuple[Bar, ...]


def thin_out(points: Sequence[Point]) -> Sequence[Point]:
    """Keep the minimum and maximum of every section of a long line, so that no spike is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(len(points) / (_MOST_POINTS // 2))
    kept = []
    for first in range(0, len(points), size):
        stretch = points[first : first + size]
        finite = [each for each in stretch if math.isfinite(each[1])] or stretch[:1]
        ends = {min(finite, key=lambda each: each[1]), max(finite, key=lambda each: each[1])}
        kept += sorted(ends)
    return kept


def smooth(points: Sequence[Point]) -> tuple[Point, ...]:
    """Smooth a line by a bias-corrected exponential average over about a twentieth of it, as TensorBoard does."""
    weight = 1 - min(1.0, 20 / max(len(points), 1))
    total = norm = 0.0
    smoothed = []
    for x, y in points:
        if math.isfinite(y):
            total, norm = weight * total + (1 - weight) * y, weight * norm + (1 - weight)
            smoothed.append((x, total / norm))
    return tuple(smoothed)


def spans_powers(values: Iterable[float]) -> bool:
    """Return whether values span so much that only a logarithmic axis shows all of them."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > _LOG_FROM * min(finite)


def choose_ticks(low: float, high: float, is_whole: bool = False) -> list[float]:
    """Choose round values around a range, starting at 0 if that wastes little space."""
    if low > 0 and low < 0.4 * high:
        low = 0.0
    if low == high:  # centre a single value
        half = abs(high) / _NUM_TICKS or 0.5
        low, high = (max(low - half, 0.0) if low >= 0 else low - half), high + half
    rough = max((high - low) / _NUM_TICKS, 1.0 if is_whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if is_whole else (1, 2, 2.5, 5, 10)
    step = next(power * each for each in factors if power * each >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def choose_powers(low: float, high: float) -> list[float]:
    """Choose powers of ten around a range: each, or of many every second or third."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = max(1, math.ceil((last - first) / 6))
    return [10.0**power for power in range(first, last + step, step)]


def write_number(value: float, step: float, largest: float) -> str:
    """Format a tick with the digits that its step needs; as powers of ten on the whole axis if the largest is."""
    if value == 0:
        return "0"
    if not 1e-3 <= largest < 1e6:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    places = next((places for places in range(6) if math.isclose(step * 10**places, round(step * 10**places))), 6)
    return f"{value:,.{places}f}"
