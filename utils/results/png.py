"""The charts as PNG, for papers and slides, with matplotlib (the extra `plots`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.replace_file import replace_file
from utils.results.charts import Chart
from utils.results.svg import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")
_DPI = 150
_CHINESE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei", "SimHei",
            "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Arial Unicode MS")  # fmt: skip


def find_chinese_font() -> str | None:
    """Find an installed font with Chinese characters; matplotlib has none."""
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    return next((name for name in _CHINESE if name in installed), None)


@contextmanager
def _with_fonts() -> Iterator[None]:
    """Use a font with Chinese characters, if there is one, for all texts, including class names."""
    from matplotlib import rc_context

    font = find_chinese_font()
    with rc_context({"font.family": ["DejaVu Sans", *([font] if font else [])]}):
        yield


@_with_fonts()
def write_charts(path: Path, charts: Sequence[Chart]) -> Path:
    """Draw charts in rows and columns."""
    from matplotlib.figure import Figure

    columns = min(2, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = Figure(figsize=(5.6 * columns, 3.4 * rows), layout="constrained")
    axes: list[Any] = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axis, chart in zip(axes, charts, strict=False):
        _draw(axis, chart)
    for axis in axes[len(charts) :]:
        axis.set_axis_off()
    return _save(figure, path)


@_with_fonts()
def write_confusion(path: Path, table: Sequence[Sequence[str]]) -> Path:
    """Draw a confusion matrix from its table: rows are labels, columns predictions."""
    from matplotlib.figure import Figure

    (_, *predicted), *body = table
    counts = [[int(each) for each in row[1:]] for row in body]
    shares = [[each / (sum(row) or 1) for each in row] for row in counts]
    size = 2.2 + 0.7 * len(predicted)
    figure = Figure(figsize=(size, size), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(predicted)), [_plain(name) for name in predicted], rotation=30, ha="right")
    axis.set_yticks(range(len(body)), [_plain(row[0]) for row in body])
    axis.set_xlabel("prediction")
    axis.set_ylabel("label")
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            color = "white" if shares[y][x] > 0.5 else "black"
            axis.text(x, y, f"{count:,}", ha="center", va="center", color=color)
    return _save(figure, path)


def _draw(axis: Axes, chart: Chart) -> None:
    for each in chart.series:
        xs, ys = zip(*each.points, strict=True)
        faint = each.kind == "faint"
        axis.plot(
            xs, ys,
            label=_plain(each.name),
            color=LIGHT[each.color % len(LIGHT)],
            alpha=0.4 if faint else 1,
            linewidth=0.8 if faint else 1.6,
            linestyle="-" if faint else _STYLES[each.color % len(_STYLES)],
            marker="o" if len(each.points) <= 40 and not faint else None,
            markersize=3.5,
        )  # fmt: skip
    axis.set_title(_plain(chart.title), loc="left", fontsize=11)
    axis.set_xlabel(_plain(chart.x_label))
    axis.set_yscale("log" if chart.is_log_y else "linear")
    axis.grid(axis="y", linewidth=0.5, alpha=0.4)
    axis.spines[["top", "right"]].set_visible(False)
    if len(chart.series) > 1:
        axis.legend(frameon=False, fontsize=8)


def _plain(text: str) -> str:
    """Escape a text so that it is not rendered as a formula."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> Path:
    with replace_file(path) as beside:
        figure.savefig(beside, dpi=_DPI)
    return path
