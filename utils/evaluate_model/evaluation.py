"""Evaluate a model of any kind, and show the scores."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from utils.metrics.longbench import average_by_category
from utils.results.labels import is_score, scale, translate
from utils.runs.first_answers import render_first_answers
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from rich.console import RenderableType

    from utils.evaluate_model.evaluated_model import EvaluatedModel
    from utils.evaluate_model.folders import Entry
    from utils.results.labels import Language

logger = logging.getLogger(__name__)


def evaluate(evaluated: EvaluatedModel) -> list[Entry]:
    """Evaluate a model on all its sets."""
    for notice in dict.fromkeys(notice for job in evaluated.jobs for notice in job.config.notices):
        logger.info("note: %s", notice)
    task = load_task(evaluated.jobs[0].config.task)
    if task.GENERATES:
        from utils.evaluate_model.causal import evaluate_language_model

        return evaluate_language_model(evaluated)
    if task.JUDGES:
        from utils.evaluate_model.rewards import evaluate_reward_model

        return evaluate_reward_model(evaluated)
    from utils.evaluate_model.classifier import evaluate_classifier

    return evaluate_classifier(evaluated)


def show_scores(evaluated: EvaluatedModel, entries: list[Entry], num_shown: int = 0) -> dict[str, Any]:
    """Print the answers to the first rows, then the tables, and return everything for `--json`."""
    from utils.core.terminal import build_console

    language, console = evaluated.jobs[0].config.results.language, build_console()
    for entry in entries:
        for text in render_first_answers(entry.label, entry.folder, num_shown, language):
            console.print(text, soft_wrap=True)
    console.print(render_scores(evaluated.title, entries, language))
    answer = {"weights": evaluated.describe_weights(), "sets": {entry.label: entry.to_dict() for entry in entries}}
    if any(entry.result.get("groups") for entry in entries):
        console.print(render_groups(entries, language))
    averages = average_longbench(entries)
    if averages:
        console.print(render_averages(averages, language))
        answer["longbench"] = averages
    return answer


def show_answers(entry: Entry) -> dict[str, Any]:
    """Print the tables of answers scored without a model, and return everything for `--json`."""
    from utils.core.terminal import build_console

    console = build_console()
    console.print(render_scores(entry.label, [entry]))
    if entry.result["groups"]:
        console.print(render_groups([entry]))
    return {"sets": {entry.label: entry.to_dict()}}


def average_longbench(entries: Sequence[Entry]) -> dict[str, float]:
    """Average LongBench's subsets by category, and over categories, 0 to 1; empty for fewer than two subsets."""
    found: dict[str, float] = {}
    for entry in entries:
        subsets = entry.result.get("facts", {}).get("subsets", [])
        if len(subsets) == 1 and (value := entry.result["metrics"].get("longbench_score")) is not None:
            found[str(subsets[0])] = value
    return average_by_category(found) if len(found) > 1 else {}


def render_scores(title: str, entries: Sequence[Entry], language: Language = "en") -> RenderableType:
    """Build the table: one line per set and metric, scores x100 with their interval."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    baseline = any(entry.result.get("baseline") for entry in entries)
    names = ["set", "metric", "score", "interval", *(["baseline"] if baseline else []), "rows"]
    for name in names:
        header = translate(name, language) + (" x100" if name == "score" else "")
        side: Literal["left", "right"] = "left" if name in ("set", "metric") else "right"
        table.add_column(Text(header), justify=side, no_wrap=name not in ("set", "rows"), overflow="fold")
    for entry in entries:
        for cells in _list_lines(entry, language, baseline):
            table.add_row(*(Text(cell) for cell in cells))
    notes = [Text(f"{entry.label}: {entry.result['protocol']}; {entry.folder}", overflow="fold") for entry in entries]
    return Group(table, *notes)


def render_groups(entries: Sequence[Entry], language: Language = "en") -> RenderableType:
    """Build the table of the headline for each group of rows, x100 with its interval."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    for name in ("set", "kind_of_rows", "metric", "score", "interval", "rows"):
        head = translate(name, language) + (" x100" if name == "score" else "")
        table.add_column(head, justify="left" if name in ("set", "kind_of_rows", "metric") else "right", no_wrap=True)
    for entry in entries:
        metric = entry.shown[0]
        for kind, parts in entry.result.get("groups", {}).items():
            for name, part in parts.items():
                shown = _show(metric, part["metrics"].get(metric)), _show_interval(metric, part)
                cells = (entry.label, f"{kind}: {name}", metric, *shown, str(part["n"]))
                table.add_row(*map(Text, cells))
    return table


def render_averages(averages: Mapping[str, float], language: Language = "en") -> RenderableType:
    """Build the table of LongBench's averages, x100."""
    from rich import box
    from rich.table import Table

    table = Table(title="LongBench", title_justify="left", box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    table.add_column(translate("category", language))
    table.add_column(f"{translate('average', language)} x100", justify="right")
    for category, value in averages.items():
        table.add_row(category, f"{100 * value:.2f}")
    return table


def _list_lines(entry: Entry, language: Language, baseline: bool) -> Iterator[list[str]]:
    result = entry.result
    for index, name in enumerate(entry.shown):
        guessed = result.get("baseline", {}).get(name)
        yield [
            entry.label if index == 0 else "",
            name if is_score(name) else f"{name} ({translate('as_it_is', language)})",
            _show(name, result["metrics"][name]),
            _show_interval(name, result),
            *([] if not baseline else ["" if guessed is None else _show(name, guessed)]),
            _count_rows(entry, language) if index == 0 else "",
        ]


def _count_rows(entry: Entry, language: Language) -> str:
    result = entry.result
    if not result["partial"]:
        return str(result["n"])
    return f"{result['n']} / {result['num_total']} ({translate('partial', language)})"


def _show_interval(name: str, result: Mapping[str, Any]) -> str:
    bounds = result["interval"].get(name)
    return f"{_show(name, bounds[0])} .. {_show(name, bounds[1])}" if bounds else ""


def _show(name: str, value: float | None) -> str:
    return "-" if value is None else f"{scale(name, value):.2f}"
