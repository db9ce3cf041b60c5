"""Charts plot any values at their position, and escape any text."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from utils.results.charts import Bar, BarChart, Chart, Series, smooth, thin_out
from utils.results.svg import HEIGHT, render, render_file

HOSTILE = "<script>alert(1)</script>\"'&]]>"


def _draw(*points: tuple[float, float], **facts: bool) -> ElementTree.Element:
    chart = Chart("loss", "step", (Series("training", points),), **facts)
    return ElementTree.fromstring(render(chart))


def _path(drawn: ElementTree.Element) -> list[tuple[str, float, float]]:
    (path,) = drawn.iter("path")
    return [(move, float(x), float(y)) for move, x, y in re.findall(r"([ML])([\d.]+) ([\d.]+)", path.get("d"))]


def test_a_line_goes_from_corner_to_corner():
    drawn = _draw((0, 0), (5, 5), (10, 10))
    (_, left, bottom), (_, middle, center), (_, right, top) = _path(drawn)
    (axis,) = (line for line in drawn.iter("line") if line.get("class") == "axis" and line.get("y1") == line.get("y2"))
    assert (left, right) == (float(axis.get("x1")), float(axis.get("x2")))
    assert bottom == HEIGHT - 40 == float(axis.get("y1"))
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert center == pytest.approx((top + bottom) / 2, abs=0.1)
    assert {text.text for text in drawn.iter("text")} >= {"loss", "step", "0", "10"}


def test_powers_of_ten_are_equally_spaced():
    ys = [y for _, _, y in _path(_draw((0, 1), (1, 10), (2, 100), (3, 1000), is_log_y=True))]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2) == pytest.approx(ys[2] - ys[3], abs=0.2)


def test_missing_values_leave_a_gap():
    assert [move for move, _, _ in _path(_draw((0, 1), (1, math.nan), (2, 2), (3, math.inf), (4, 3)))] == ["M"] * 3


@pytest.mark.parametrize("points", [[(1, 0.7)], [(1, 0.0)], [(1, -3.0), (2, -3.0)], [(7, 1e-12)], [(0, math.nan)], []])
def test_few_or_equal_points_are_drawn(points):
    drawn = _draw(*points)
    assert "nan" not in ElementTree.tostring(drawn, "unicode").replace("nan (0)", "")
    assert len(list(drawn.iter("circle"))) == sum(math.isfinite(y) for _, y in points)


def test_texts_are_escaped():
    charts = [Chart(HOSTILE, HOSTILE, (Series(HOSTILE, ((0, 1), (1, 2))), Series("other", ((0, 1),), color=1)))]
    charts += [BarChart(HOSTILE, HOSTILE, (Bar(HOSTILE, 1.0, (0.5, 1.5)), Bar("b", None, note=HOSTILE)))]
    drawn = ElementTree.fromstring(render_file(charts))
    assert not [each for each in drawn.iter() if each.tag.endswith("script")]
    assert sum(each.text == HOSTILE for each in drawn.iter()) >= 4


def test_bars_lie_within_their_intervals():
    bars = BarChart("em", "score", (Bar("lora", 80.0, (70.0, 90.0)), Bar("failed", None, note="failed")))
    drawn = ElementTree.fromstring(render(bars))
    (whisker,) = (line for line in drawn.iter("line") if "whisker" in line.get("class"))
    (dot,) = drawn.iter("circle")
    assert float(dot.get("cx")) == pytest.approx((float(whisker.get("x1")) + float(whisker.get("x2"))) / 2, abs=0.1)
    assert "failed" in {text.text for text in drawn.iter("text")}


def test_thinning_keeps_the_spikes():
    points = [(x, math.sin(x / 50)) for x in range(10_000)]
    points[7654] = (7654, 99.0)
    points[1234] = (1234, -99.0)
    kept = thin_out(points)
    assert len(kept) <= 400
    assert {points[7654], points[1234]} <= set(kept)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_smoothing_is_the_exponential_average_without_bias():
    points = [(x, float((7 * x) % 13)) for x in range(100)]
    weight, last, found = 0.8, 0.0, []
    for count, (_, y) in enumerate(points, start=1):  # TensorBoard's own: last * w + (1 - w) * y, over 1 - w^count
        last = last * weight + (1 - weight) * y
        found.append(last / (1 - weight**count))
    assert [y for _, y in smooth(points)] == pytest.approx(found)


def test_many_series_are_all_distinguishable():
    kinds = ("line", "dots")
    for kind in kinds:
        series = tuple(Series(f"method {index}", ((0, index), (1, index)), kind, index) for index in range(20))
        drawn = ElementTree.fromstring(render(Chart("loss", "step", series)))
        marks = [each for each in drawn.iter() if each.tag in ("path", "circle", "rect") and each.get("d", "x")]
        looks = {(each.tag, each.get("class"), each.get("stroke-dasharray"), "rotate" in (each.get("transform") or ""))
                 for each in marks if kind == "dots" or each.tag == "path"}  # fmt: skip
        assert len(looks) == 20


@pytest.mark.parametrize(
    ("high", "expected"),
    [(0.002, ["0", "0.0005", "0.0010", "0.0015", "0.0020"]), (4e-4, ["0", "1e-4", "2e-4", "3e-4", "4e-4"])],
)
def test_ticks_of_an_axis_share_a_format(high, expected):
    drawn = _draw((0, 0), (1, high))
    assert [text.text for text in drawn.iter("text") if text.get("text-anchor") == "end"][: len(expected)] == expected
