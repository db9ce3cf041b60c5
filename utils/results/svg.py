"""Draw charts as SVG: lines over steps, scores with intervals, score against cost.

They are embedded in an HTML page, whose style they use, or written to a file with its own style.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from utils.results.charts import (
    Bar,
    BarChart,
    Chart,
    Point,
    Series,
    choose_powers,
    choose_ticks,
    thin_out,
    write_number,
)
from utils.results.labels import count_columns

WIDTH, HEIGHT = 440, 264
_GAP = 24  # between the charts of a file
_MOST_COLUMNS = 2
_LEFT_MOST, _RIGHT, _BOTTOM, _LINE = 150, 16, 40, 17
_CHARACTER = 6.6  # px per character in the labels' font size
_MOST_MARKED = 40
LIGHT = ("#2f5c8f", "#b85c00", "#2e7d4f", "#b23a55", "#6f5ba7", "#7a5c3e", "#1b7a87", "#666666")
DARK = ("#7fb2e5", "#f0a75a", "#7ccb97", "#f08fa2", "#b9a8ee", "#cdb391", "#6fccd9", "#b4b4b4")
DASHES = ("", "7 3", "2 3", "9 3 2 3")


def render(chart: Chart | BarChart) -> str:
    """Draw one chart as an element of a page."""
    body, height = _draw_bars(chart) if isinstance(chart, BarChart) else (_draw_lines(chart), HEIGHT)
    label = escape(_describe(chart))
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{label}">{body}</svg>'


def render_file(charts: Sequence[Chart | BarChart]) -> str:
    """Draw charts in rows and columns as a file of its own, for light and dark mode."""
    columns = max(1, min(_MOST_COLUMNS, len(charts)))
    drawn = [_draw_bars(each) if isinstance(each, BarChart) else (_draw_lines(each), HEIGHT) for each in charts]
    parts, top = [], float(_GAP)
    for first in range(0, len(drawn), columns):
        row = drawn[first : first + columns]
        lefts = [_GAP + (WIDTH + _GAP) * index for index in range(len(row))]
        parts += [f'<g transform="translate({x},{top:g})">{body}</g>' for x, (body, _) in zip(lefts, row, strict=True)]
        top += max(height for _, height in row) + _GAP
    label = escape("; ".join(map(_describe, charts)))
    width = _GAP + (WIDTH + _GAP) * columns
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {top:g}" '
        f'width="{width}" height="{top:g}" role="img" aria-label="{label}">'
        f'<style>{colors()}{STYLE}</style><rect class="ground" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def colors() -> str:
    """Return the style's colours for light and dark mode: those of the page, the text, and the series."""
    light = "".join(f"--c{index}:{color};" for index, color in enumerate(LIGHT))
    dark = "".join(f"--c{index}:{color};" for index, color in enumerate(DARK))
    return (
        f":root{{--paper:#fff;--ink:#1c2024;--muted:#5c6570;--line:#dfe3e8;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root{{--paper:#14171a;--ink:#e6e9ec;--muted:#9aa4ae;--line:#2d343b;"
        f"{dark}}}}}"
    )


_SERIES_STYLE = "".join(f".s{i}{{stroke:var(--c{i})}}.f{i}{{fill:var(--c{i})}}" for i in range(len(LIGHT)))
STYLE = (
    ".chart{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','PingFang SC','Noto Sans CJK SC',"
    "'Microsoft YaHei',sans-serif;font-size:11.5px;font-variant-numeric:tabular-nums}"
    ".chart text{fill:var(--muted)}.chart .title{fill:var(--ink);font-size:13px;font-weight:600}"
    ".chart .name{fill:var(--ink)}.chart .ground{fill:var(--paper)}.chart .grid{stroke:var(--line)}"
    ".chart .axis{stroke:var(--muted)}.chart path,.chart line{fill:none}.chart .curve{stroke-width:1.8;"
    "stroke-linejoin:round}.chart .faint{stroke-width:1;opacity:.55}.chart .whisker{stroke-width:2}" + _SERIES_STYLE
)


class _Axis:
    """Maps values to pixels; a logarithmic axis maps powers of ten."""

    def __init__(
        self, values: Iterable[float], first: float, last: float, is_log: bool = False, is_tight: bool = False
    ) -> None:
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        self.is_log = is_log and bool(finite)
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        self.ticks = (
            choose_powers(low, high)
            if self.is_log
            else choose_ticks(low, high, is_tight and all(value.is_integer() for value in map(float, finite)))
        )
        self.step = self.ticks[1] - self.ticks[0]
        if is_tight and not self.is_log and high > self.ticks[-2] >= low:  # end the axis where the values end
            self.ticks = [tick for tick in self.ticks if tick <= high]
        else:
            high = self.ticks[-1]
        self._low, self._high = self._scale(self.ticks[0]), self._scale(high)
        self.first, self.last = first, last

    def place(self, value: float) -> float:
        """Return the pixel of a value; nan for a value that cannot be placed."""
        if not math.isfinite(value) or (self.is_log and value <= 0):
            return math.nan
        share = (self._scale(value) - self._low) / (self._high - self._low)
        return self.first + share * (self.last - self.first)

    def label(self, value: float) -> str:
        """Format a tick's value."""
        step, largest = (value, value) if self.is_log else (self.step, max(map(abs, self.ticks)))
        return write_number(value, step, largest)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def _draw_lines(chart: Chart) -> str:
    """Draw lines or points with axes and legend."""
    shown = [each for each in chart.series if each.points]
    legend, top = _draw_legend(shown)
    ys = [y for each in shown for _, y in each.points]
    y_axis = _Axis(ys, HEIGHT - _BOTTOM, top, chart.is_log_y)
    left = 14 + max(_width(y_axis.label(tick)) for tick in y_axis.ticks)
    x_axis = _Axis([x for each in shown for x, _ in each.points], left, WIDTH - _RIGHT, chart.is_log_x, is_tight=True)
    parts = [_text(0, 13, chart.title, "title"), legend]
    parts += _draw_grid(y_axis, left)
    parts += _draw_x_axis(x_axis, HEIGHT - _BOTTOM, chart.x_label)
    order = sorted(shown, key=lambda each: each.kind != "faint")
    parts += [part for each in order for part in _draw_series(each, x_axis, y_axis)]
    return "".join(parts)


def _draw_legend(shown: Sequence[Series]) -> tuple[str, float]:
    """Draw the legend of several series; return the top of the area below."""
    top = 32.0
    if len(shown) < 2:
        return "", top
    parts, x = [], 0.0
    for each in shown:
        width = 30 + _width(each.name)
        if x and x + width > WIDTH:
            x, top = 0.0, top + _LINE
        middle = top - 2
        if each.kind == "dots":
            parts.append(_mark(each.color, x + 9, middle, 4))
        else:
            parts.append(_line((x, middle), (x + 18, middle), _class_of(each), _dash(each)))
        parts.append(_text(x + 23, top + 2, each.name, "name"))
        x += width + 14
    return "".join(parts), top + _LINE


def _draw_grid(axis: _Axis, left: float) -> Iterator[str]:
    for tick in axis.ticks:
        y = axis.place(tick)
        yield _line((left, y), (WIDTH - _RIGHT, y), "grid")
        yield _text(left - 6, y + 4, axis.label(tick), anchor="end")


def _draw_x_axis(axis: _Axis, y: float, label: str) -> Iterator[str]:
    yield _line((axis.first, y), (axis.last, y), "axis")
    for tick in axis.ticks:
        x = axis.place(tick)
        yield _line((x, y), (x, y + 4), "axis")
        at_end = x > WIDTH - _RIGHT - 6
        yield _text(x + (_RIGHT if at_end else 0), y + 16, axis.label(tick), anchor="end" if at_end else "middle")
    yield _text((axis.first + axis.last) / 2, y + 33, label, anchor="middle")


def _draw_series(series: Series, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    points = thin_out(series.points)
    if series.kind != "dots":
        path = _build_path([(x_axis.place(x), y_axis.place(y)) for x, y in points])
        yield f'<path class="{_class_of(series)}"{_dash(series)} d="{path}"/>'
    alone = len(points) == 1
    if series.kind == "dots" or alone or (series.kind == "line" and len(points) <= _MOST_MARKED):
        for x, y in points:
            if math.isfinite(px := x_axis.place(x)) and math.isfinite(py := y_axis.place(y)):
                title = f"<title>{escape(f'{series.name}: {_short(y)} ({_short(x)})')}</title>"
                radius = 4.5 if series.kind == "dots" or alone else 2.6
                yield _mark(series.color, px, py, radius, title)


def _draw_bars(chart: BarChart) -> tuple[str, float]:
    """Draw values and intervals one below the other; return the height too."""
    known = [each.value for each in chart.bars if each.value is not None]
    bounds = [bound for each in chart.bars if each.interval for bound in each.interval]
    left = min(_LEFT_MOST, 10 + max((_width(each.name) for each in chart.bars), default=0))
    top, step = 28.0, 22
    bottom = top + step * len(chart.bars) + 4
    axis = _Axis([*known, *bounds], left + 8, WIDTH - 62)
    parts = [_text(0, 13, chart.title, "title")]
    for tick in axis.ticks:
        parts.append(_line((axis.place(tick), top), (axis.place(tick), bottom), "grid"))
    parts += _draw_x_axis(axis, bottom, chart.x_label)
    for index, bar in enumerate(chart.bars):
        parts += _draw_bar(bar, axis, top + step * (index + 0.5), left)
    return "".join(parts), bottom + _BOTTOM


def _draw_bar(bar: Bar, axis: _Axis, y: float, left: float) -> Iterator[str]:
    yield f"<g><title>{escape(bar.name)}</title>{_text(left, y + 4, _shorten(bar.name, left), 'name', 'end')}</g>"
    if bar.value is None:
        yield _text(left + 12, y + 4, bar.note or "-")
        return
    if bar.interval:
        low, high = bar.interval
        yield _line((axis.place(low), y), (axis.place(high), y), f"whisker s{bar.color % len(LIGHT)}")
    yield _mark(bar.color, axis.place(bar.value), y, 5)
    yield _text(WIDTH, y + 4, f"{bar.value:.2f}", "name", "end")


def _build_path(points: Sequence[Point]) -> str:
    """Build a path of straight lines, with gaps at missing values."""
    parts, is_open = [], False
    for x, y in points:
        known = math.isfinite(x) and math.isfinite(y)
        if known:
            parts.append(f"{'L' if is_open else 'M'}{x:.1f} {y:.1f}")
        is_open = known
    return "".join(parts)


def _describe(chart: Chart | BarChart) -> str:
    """Describe a chart in words, for readers who cannot see it."""
    if isinstance(chart, BarChart):
        shown = [f"{bar.name} {bar.note or '-' if bar.value is None else f'{bar.value:.2f}'}" for bar in chart.bars]
    else:
        shown = [_describe_series(each) for each in chart.series if each.kind != "faint" and each.points]
    return f"{chart.title}: {'; '.join(shown)}"


def _describe_series(series: Series) -> str:
    (first_x, first), (last_x, last) = series.points[0], series.points[-1]
    return f"{series.name} {_short(first)} ({_short(first_x)}) .. {_short(last)} ({_short(last_x)})"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _class_of(series: Series) -> str:
    return f"{'faint' if series.kind == 'faint' else 'curve'} s{series.color % len(LIGHT)}"


def _dash(series: Series) -> str:
    turn = series.color // len(LIGHT)
    dash = DASHES[(series.color + turn) % len(DASHES)] if series.kind == "line" else ""
    return f' stroke-dasharray="{dash}"' if dash else ""


def _mark(color: int, x: float, y: float, radius: float, inside: str = "") -> str:
    """Draw a circle; when the colours repeat, a square, then a diamond."""
    turn, style = color // len(LIGHT), f'class="f{color % len(LIGHT)}"'
    if turn % 3 == 0:
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{inside}</circle>'
    turned = f' transform="rotate(45 {x:.1f} {y:.1f})"' if turn % 3 == 2 else ""
    left, top, side = x - radius * 0.9, y - radius * 0.9, radius * 1.8
    place = f'x="{left:.1f}" y="{top:.1f}" width="{side:.1f}" height="{side:.1f}"'
    return f"<rect {style}{turned} {place}>{inside}</rect>"


def _line(start: Point, end: Point, style: str, dash: str = "") -> str:
    return f'<line class="{style}"{dash} x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "") -> str:
    named = f' class="{style}"' if style else ""
    placed = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text{named}{placed} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _width(text: str) -> float:
    """Estimate the width of a label in px."""
    return _CHARACTER * count_columns(text)


def _shorten(text: str, width: float) -> str:
    while text and _width(text) > width:
        text = f"{text.removesuffix('...')[:-1]}..." if len(text) > 4 else ""
    return text
