"""The logged values of a training as curves over its steps: the table of curves.csv, and the charts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from utils.core import registry
from utils.results.charts import Chart, Point, Series, smooth, spans_powers
from utils.results.labels import Language, is_score, translate

Logs = Sequence[Mapping[str, Any]]
"""The Trainer's log_history."""

_NO_CURVES = frozenset({"step", "epoch", "total_flos", "num_input_tokens_seen", "train_loss"})
_TIMES = ("runtime", "per_second", "_time", "steps_skipped")
"""Suffixes of keys that differ between machines or sessions."""
_MOST_SERIES = 6
_SMOOTHED_FROM = 60
_FIRST = ("loss", "scores", "combined_score", "rewards", "accuracies", "learning_rate", "grad_norm")
"""The first charts, in this order."""
_REWARDS = ("reward", "reward_std", "mean_reward", "min_reward", "max_reward", "margin")
"""Keys in one chart with `rewards/...`."""
_SHARES = ("scores", "accuracies")
"""Charts of values from 0 to 1."""


def tabulate(logs: Logs) -> dict[str, list[Point]]:
    """Return each key's values over the steps, in order; of a step logged twice the last one counts."""
    found: dict[str, dict[float, float]] = {}
    for entry in logs:
        step = entry.get("step")
        for key, value in entry.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and isinstance(step, int) and key not in _NO_CURVES and not key.endswith(_TIMES):
                found.setdefault(key, {})[step] = float(value)
    # The order of keys within an entry differs after resuming, as the Trainer writes and logs them differently.
    return {key: sorted(found[key].items()) for key in sorted(found, key=lambda key: (key.startswith("eval_"), key))}


def render_csv(logs: Logs) -> str:
    """Return curves.csv: a row per step with all values logged there, unchanged."""
    curves = tabulate(logs)
    epochs = {entry["step"]: entry.get("epoch") for entry in logs if "step" in entry}
    values = {key: dict(points) for key, points in curves.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "epoch", *curves])
    for step in sorted({x for points in curves.values() for x, _ in points}):
        row = [values[key].get(step) for key in curves]
        writer.writerow([int(step), epochs.get(int(step)), *(None if each is None else repr(each) for each in row)])
    return text.getvalue()


def build_charts(logs: Logs, language: Language = "en") -> list[Chart]:
    """Build the charts: the loss, scores of each set, rewards, the learning rate, and all other logged values.

    Related curves share a chart: training and evaluation of one quantity, the scores of a set.
    """
    families: dict[str, dict[str, list[Point]]] = {}
    for key, points in tabulate(logs).items():
        if any(math.isfinite(y) for _, y in points):
            family, factor = _find_family(key, points)
            families.setdefault(family, {})[key] = [(x, y * factor) for x, y in points]
    order = {name: index for index, name in enumerate(_FIRST)}
    names = sorted(families, key=lambda name: order.get(name.partition(" ")[0], len(order)))
    return [chart for name in names for chart in _build_family(name, families[name], language)]


def _find_family(key: str, points: Sequence[Point]) -> tuple[str, float]:
    """Return the chart of a quantity, and the factor by which its values are multiplied there."""
    name = key.removeprefix("eval_")
    if name in ("loss", "learning_rate", "grad_norm", "combined_score"):
        return name, 1.0
    if name.endswith(("accuracies", "token_accuracy")) or key == "accuracy":
        return "accuracies", 100.0
    if key.startswith("eval_") and is_score(name) and all(abs(y) <= 1 for _, y in points if math.isfinite(y)):
        return f"scores {_find_set(name)}".strip(), 100.0
    return ("rewards" if name in _REWARDS else name.partition("/")[0]), 1.0


def _find_set(name: str) -> str:
    """Return the evaluation set before a metric's name; "" if there is none."""
    parts = name.split("_")
    tails = ("_".join(parts[index:]) for index in range(len(parts)))
    metric = next((tail for tail in tails if registry.has("metrics", tail)), name)
    return name.removesuffix(metric).rstrip("_")


def _build_family(family: str, curves: dict[str, list[Point]], language: Language) -> list[Chart]:
    kind, _, label = family.partition(" ")
    title = translate(kind, language) if kind in _FIRST else kind
    if len(curves) == 1 and "/" in (key := next(iter(curves))) and kind not in _FIRST:
        title = key
    title = f"{label}: {title}" if label else title
    title += " x100" if kind in _SHARES else ""
    is_log = kind in ("loss", "grad_norm", "perplexity") and spans_powers(
        y for points in curves.values() for _, y in points
    )
    keys = list(curves)
    charts = []
    for first in range(0, len(keys), _MOST_SERIES):
        series = _build_series({key: curves[key] for key in keys[first : first + _MOST_SERIES]}, label, language)
        charts.append(Chart(title, translate("step", language), tuple(series), is_log_y=is_log))
    return charts


def _build_series(curves: Mapping[str, Sequence[Point]], label: str, language: Language) -> Iterable[Series]:
    for color, (key, points) in enumerate(curves.items()):
        name = _name_series(key, label, language)
        if key == "loss" and len(points) >= _SMOOTHED_FROM:
            yield Series(name, tuple(points), "faint", color)
            yield Series(f"{name}, {translate('smoothed', language)}", smooth(points), "line", color)
        else:
            yield Series(name, tuple(points), "line", color)


def _name_series(key: str, label: str, language: Language) -> str:
    if key in ("loss", "eval_loss"):
        return translate("evaluation" if key == "eval_loss" else "training", language)
    name = key.removeprefix("eval_")
    name = name.removeprefix(f"{label}_") if label else name
    name = name.removesuffix("/accuracies") if name.endswith("/accuracies") else name.partition("/")[2] or name
    return f"{name} ({translate('evaluation', language)})" if key.startswith("eval_") and "/" in key else name
