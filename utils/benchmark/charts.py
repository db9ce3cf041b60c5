"""The workbook's native charts, and the small tables with their data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from utils.benchmark.statistics import Average, Summary, SummaryRow
from utils.results.columns import Cell
from utils.results.labels import Language, translate
from utils.results.workbook import fill_cell

if TYPE_CHECKING:
    from openpyxl.chart import BarChart, ScatterChart
    from openpyxl.chart.error_bar import ErrorBars
    from openpyxl.chart.series import Series
    from openpyxl.chart.title import Title
    from openpyxl.worksheet.worksheet import Worksheet

FONT = "Calibri"

_COLORS = ("2F5C8F", "E08A2C", "4F9D69", "B5485D", "7A68A6", "8C6D4F", "3FA7B5", "9A9A9A", "C2A83E", "5B7F3B")
_MOST_SERIES = 8
_MOST_LABELLED = 24
_LOG_FROM = 20  # times the smallest share: beyond that, a linear axis would crowd all but one point
_DATA_ROW = 37  # below the charts
_WIDE, _HALF, _HEIGHT = 24.4, 11.9, 8.6  # cm
_SCATTERS = (("score_by_share", "trainable_percent", "A18"), ("score_by_memory", "peak_memory_gb", "D18"))
"""Charts by cost: the key of the title, that of the axis, and the position."""


@dataclass(frozen=True)
class Point:
    """A point of the charts of score against cost."""

    name: str
    group: str
    """Points of one group are one series."""
    costs: tuple[float | None, float | None]
    """Trainable share and peak memory."""
    score: float | None


def add_charts(sheet: Worksheet, summary: Summary, language: Language) -> None:
    """Fill an empty sheet with three charts and, below them, their data.

    Missing results are empty cells and have no point.
    """
    tasks = _choose_tasks(summary)
    _lay_out(sheet, len(tasks))
    names = [summary.name_setting(setting) for setting in summary.settings]
    rows = [[summary.find_row(task, setting) for task in tasks] for setting in summary.settings]
    scores = [[row.score if row else None for row in found] for found in rows]
    means = [[name, *(each and each.mean for each in row)] for name, row in zip(names, scores, strict=True)]
    spreads = [[name, *(each and each.deviation for each in row)] for name, row in zip(names, scores, strict=True)]
    heads = ["", *(f"{task} ({summary.name_metrics(task)})" for task in tasks)]
    first = _write_block(sheet, _DATA_ROW, translate("score_axis", language), heads, means)
    second = _write_block(sheet, first + len(names) + 2, translate("deviation", language), heads, spreads)
    has_spread = any(value is not None for row in spreads for value in row[1:])
    sheet.add_chart(_build_bars(sheet, first, len(names), len(tasks), second if has_spread else None, language), "A1")
    points = list(list_points(summary))
    costs = [translate(key, language) for key in ("trainable_percent", "peak_memory_gb", "mean", "series")]
    data = [[point.name, *point.costs, point.score, point.group] for point in points]
    third = _write_block(sheet, second + len(names) + 2, translate("points", language), ["", *costs], data)
    is_average = bool(summary.averages) and points[0].name not in summary.tasks
    for cost, (_, _, anchor) in enumerate(_SCATTERS):
        sheet.add_chart(_build_scatter(sheet, points, third, cost, language, is_average), anchor)


def fit_pages(sheet: Worksheet, num_pages: int) -> None:
    """Set a sheet to print on A4, landscape, `num_pages` pages wide."""
    from openpyxl.worksheet.properties import PageSetupProperties

    sheet.page_setup.orientation, sheet.page_setup.paperSize = "landscape", 9  # A4
    sheet.page_setup.fitToWidth, sheet.page_setup.fitToHeight = num_pages, 0
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    sheet.page_margins.left = sheet.page_margins.right = 0.4
    sheet.page_margins.top = sheet.page_margins.bottom = 0.5


def _lay_out(sheet: Worksheet, num_tasks: int) -> None:
    from openpyxl.utils import get_column_letter
    from openpyxl.worksheet.pagebreak import Break

    sheet.sheet_view.showGridLines = False
    for index in range(1, max(num_tasks, 5) + 2):
        sheet.column_dimensions[get_column_letter(index)].width = 30 if index == 1 else 14
    fit_pages(sheet, 1)
    sheet.row_breaks.append(Break(id=_DATA_ROW - 1))


def _choose_tasks(summary: Summary) -> list[str]:
    """Choose the tasks whose metric is a score, as a loss has another axis; all of them if none is."""
    scored = {row.task for row in summary.rows if row.factor == 100}
    return [task for task in summary.tasks if task in scored] or summary.tasks


def list_points(summary: Summary) -> Iterator[Point]:
    """Yield points for the settings; with a single setting, for its tasks."""
    totals = [total for total in summary.totals if not total.setting.is_baseline]
    sources: list[tuple[str, str, SummaryRow | Average | None]]
    if len(totals) > 1:
        sources = [(summary.name_setting(total.setting), total.setting.method, total) for total in totals]
    else:
        sources = [(task, task, summary.find_row(task, totals[0].setting)) for task in summary.tasks]
    for name, group, source in sources:
        score = source.score if source else None
        share, memory = (source.mean(figure) if source else None for figure in ("trainable_percent", "memory"))
        yield Point(name, group, (share, memory), score.mean if score else None)


def _write_block(sheet: Worksheet, row: int, title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> int:
    """Write a small table with its title; return the row of its header."""
    from openpyxl.styles import Alignment, Border, Font, PatternFill, Side

    fill_cell(sheet.cell(row, 1), Cell(title))
    sheet.cell(row, 1).font = Font(name=FONT, bold=True)
    grey = PatternFill("solid", fgColor="EDEDED")
    for index, head in enumerate(heads, start=1):
        cell = sheet.cell(row + 1, index)
        fill_cell(cell, Cell(head or None))
        cell.font, cell.border = Font(name=FONT, bold=True), Border(bottom=Side("thin", color="7F7F7F"))
        cell.alignment = Alignment(horizontal="left" if index == 1 else "right", wrap_text=True, vertical="bottom")
    for offset, values in enumerate(rows, start=2):
        for index, value in enumerate(values, start=1):
            cell = sheet.cell(row + offset, index)
            fill_cell(cell, Cell(value, "text" if isinstance(value, str) else "share"))
            if value is None:
                cell.fill = grey
            elif isinstance(value, str) and index > 1:
                cell.alignment = Alignment(horizontal="right")
    return row + 1


def _build_bars(
    sheet: Worksheet, heads: int, num_lines: int, num_tasks: int, spreads: int | None, language: Language
) -> BarChart:
    """Draw settings as series over tasks, or tasks as series over many settings.

    `heads` is the row of the scores' header, `spreads` that of the deviations'; None if there are none.
    """
    from openpyxl.chart import BarChart, Reference

    chart = BarChart()
    chart.type, chart.grouping, chart.gapWidth, chart.overlap = "col", "clustered", 60, 0
    by_setting = num_lines <= _MOST_SERIES
    first, last = heads + 1, heads + num_lines
    for index in range(num_lines if by_setting else num_tasks):
        row, column = (first + index, 1) if by_setting else (heads, index + 2)
        place = (2, row, num_tasks + 1, row) if by_setting else (column, first, column, last)
        series = _build_series(sheet, (column, row), place, index)
        series.graphicalProperties.solidFill = _COLORS[index % len(_COLORS)]
        if spreads is not None:
            left, top, right, bottom = place
            series.errBars = _build_error_bars(sheet, (left, top + spreads - heads, right, bottom + spreads - heads))
        chart.series.append(series)
    names = (2, heads, num_tasks + 1, heads) if by_setting else (1, first, 1, last)
    chart.set_categories(Reference(sheet, *names))
    _style_chart(chart, translate("score_by_method", language), "", translate("score_axis", language), _WIDE)
    shown = [cell.value for row in sheet.iter_rows(first, last, 2, num_tasks + 1) for cell in row]
    if not any(isinstance(value, int | float) and value < 0 for value in shown):
        chart.y_axis.scaling.min = 0  # a bar's length is its value
    if num_lines * num_tasks <= _MOST_LABELLED and spreads is None:
        _label_values(chart)
    return chart


def _build_scatter(
    sheet: Worksheet, points: Sequence[Point], heads: int, cost: int, language: Language, is_average: bool
) -> ScatterChart:
    """Draw scores over a cost, one series per group of consecutive points.

    The points' data start below the row `heads`, with the costs in columns 2 and 3 and the score in 4.
    """
    from openpyxl.chart import Reference, ScatterChart
    from openpyxl.chart.data_source import AxDataSource, NumRef
    from openpyxl.chart.marker import Marker

    chart, column = ScatterChart(), cost + 2
    chart.style, chart.scatterStyle = None, "lineMarker"
    groups = [list(each) for _, each in groupby(range(len(points)), key=lambda index: points[index].group)]
    for index, group in enumerate(groups):
        if not any(points[each].costs[cost] and points[each].score is not None for each in group):
            continue
        rows = (heads + 1 + group[0], heads + 1 + group[-1])
        series = _build_series(sheet, (5, rows[0]), (4, rows[0], 4, rows[1]), index)
        series.yVal, series.val = series.val, None
        series.xVal = AxDataSource(numRef=NumRef(f=str(Reference(sheet, column, rows[0], column, rows[1]))))
        color = _COLORS[index % len(_COLORS)]
        series.marker = Marker("circle", size=9)
        series.marker.graphicalProperties.solidFill = color
        series.marker.graphicalProperties.line.solidFill = color
        series.graphicalProperties.line.noFill = True
        chart.series.append(series)
    title, axis, _ = _SCATTERS[cost]
    score = translate("average_axis" if is_average else "score_axis", language)
    _style_chart(chart, translate(title, language), translate(axis, language), score, _HALF)
    costs = [value for point in points if (value := point.costs[cost])]
    if costs and max(costs) > _LOG_FROM * min(costs):
        chart.x_axis.scaling.logBase = 10
    return chart


def _build_series(sheet: Worksheet, title: tuple[int, int], place: tuple[int, int, int, int], index: int) -> Series:
    """Build a series of values with its name, both read from cells (column, row)."""
    from openpyxl.chart import Reference
    from openpyxl.chart.data_source import NumDataSource, NumRef, StrRef
    from openpyxl.chart.series import Series, SeriesLabel

    name = SeriesLabel(strRef=StrRef(str(Reference(sheet, *title))))
    series = Series(idx=index, order=index, tx=name)
    series.val = NumDataSource(numRef=NumRef(f=str(Reference(sheet, *place))))
    return series


def _build_error_bars(sheet: Worksheet, place: tuple[int, int, int, int]) -> ErrorBars:
    from openpyxl.chart import Reference
    from openpyxl.chart.data_source import NumDataSource, NumRef
    from openpyxl.chart.error_bar import ErrorBars

    source = NumDataSource(numRef=NumRef(f=str(Reference(sheet, *place))))
    return ErrorBars(errDir="y", errBarType="both", errValType="cust", plus=source, minus=source)


def _label_values(chart: BarChart) -> None:
    from openpyxl.chart.label import DataLabelList

    chart.dataLabels = DataLabelList(numFmt="0.0", showVal=True)
    for part in ("showSerName", "showCatName", "showLegendKey", "showPercent"):
        setattr(chart.dataLabels, part, False)


def _style_chart(chart: BarChart | ScatterChart, title: str, x_title: str, y_title: str, width: float) -> None:
    """Set a chart's titles, size, light grid and visible axes."""
    from openpyxl.chart.axis import ChartLines
    from openpyxl.chart.legend import Legend
    from openpyxl.chart.shapes import GraphicalProperties
    from openpyxl.drawing.line import LineProperties

    chart.title = _build_title(title, 1300)
    chart.width, chart.height = width, _HEIGHT  # type: ignore[assignment]  # cm may be fractional
    chart.legend = Legend(legendPos="b", overlay=False)
    chart.x_axis.title = _build_title(x_title, 1000) if x_title else None
    chart.y_axis.title = _build_title(y_title, 1000)
    chart.x_axis.delete = chart.y_axis.delete = False  # newer spreadsheet programs hide axes without this
    chart.x_axis.majorGridlines = None
    chart.y_axis.majorGridlines = ChartLines(spPr=GraphicalProperties(ln=LineProperties(solidFill="E3E3E3")))
    chart.y_axis.numFmt = "0"


def _build_title(text: str, size: int) -> Title:
    """Build a title that does not overlap the chart; its size is in hundredths of a point."""
    from openpyxl.chart.text import RichText, Text
    from openpyxl.chart.title import Title
    from openpyxl.drawing.text import CharacterProperties, Paragraph, RegularTextRun

    run = RegularTextRun(rPr=CharacterProperties(sz=size, b=True), t=text)
    return Title(tx=Text(rich=RichText(p=[Paragraph(r=[run])])), overlay=False)
