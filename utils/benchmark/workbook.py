"""The suite as a workbook: summary, paired differences, charts, single runs, configuration, provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.benchmark.aggregate import Comparison
from utils.benchmark.charts import add_charts
from utils.benchmark.outcomes import RunOutcome
from utils.benchmark.statistics import Summary
from utils.benchmark.tables import ResultTable, build_comparison_table, build_run_table
from utils.benchmark.xlsx_style import style_rows, style_sheet, write_notes
from utils.results.columns import Cell
from utils.results.excel import fill_table, flatten_values, list_pairs, warn_of_losses
from utils.results.json_file import replace_file
from utils.results.labels import Language, translate

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

_PER_RUN = frozenset({"seed", "task_name", "training.output_dir", "training.logging_dir", "training.run_name"})
"""Keys of a configuration that are each run's own and say nothing of its setting."""
_PER_START = frozenset({"started", "ended", "command"})

Losses: TypeAlias = tuple[int, int]
"""Characters taken out, and texts cut."""


@dataclass(frozen=True)
class WorkbookParts:
    """What goes into the workbook."""

    summary: Summary
    table: ResultTable
    """Over seeds."""
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    suite: Mapping[str, Any]
    """Facts about the suite and this report."""
    provenance: Mapping[str, Mapping[str, Any]]
    """Of each run that has any, by its name."""


def write_suite_workbook(path: Path, parts: WorkbookParts, language: Language) -> None:
    """Write the workbook whole or not at all; no text in it is a formula, and no charted cell stands for a missing run.

    The sheets have the same names in both languages.
    """
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None, "a new workbook has a sheet"
    book.remove(book.active)
    sheet = book.create_sheet("summary")
    lost = [_fill_table(sheet, parts.table)]
    write_notes(sheet, parts.notes, len(parts.table.rows) + 3, parts.table.num_fixed + 1)
    if parts.comparisons:
        table = build_comparison_table(parts.summary, parts.comparisons, language)
        lost.append(_fill_sheet(book.create_sheet("paired differences"), table.labels, _list_cells(table), num_fixed=2))
    add_charts(book.create_sheet("charts"), parts.summary, language)
    lost.append(_fill_table(book.create_sheet("per run"), build_run_table(parts.summary, language)))
    lost.append(_fill_configuration(book.create_sheet("configuration"), parts.summary, language))
    lost.append(_fill_provenance(book.create_sheet("provenance"), parts, language))
    warn_of_losses(path.name, lost)
    with replace_file(path) as beside:
        book.save(beside)


def _list_cells(table: ResultTable) -> list[Sequence[Cell]]:
    return [row.cells for row in table.rows]


def _fill_table(sheet: Worksheet, table: ResultTable) -> Losses:
    lost = fill_table(sheet, table.labels, _list_cells(table))
    style_sheet(sheet, table.num_fixed, sum(row.kind != "average" for row in table.rows))
    style_rows(sheet, table.rows)
    return lost


def _fill_sheet(sheet: Worksheet, labels: Sequence[str], rows: Sequence[Sequence[Cell]], num_fixed: int = 1) -> Losses:
    lost = fill_table(sheet, labels, rows)
    style_sheet(sheet, num_fixed, len(rows))
    return lost


def _fill_configuration(sheet: Worksheet, summary: Summary, language: Language) -> Losses:
    """Fill in the settings' configurations: first the keys that tell them apart, then the others."""
    rows = [row for row in summary.rows if row.outcomes and not row.suffix]
    flat = [_join_configs(row.outcomes) for row in rows]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    same = {key for key in keys if all(values.get(key) == flat[0].get(key) for values in flat)}
    table = []
    for key in sorted(keys, key=same.__contains__):
        shared = flat[0].get(key) if key in same else translate("varies", language)
        own = [None if key in same else values.get(key) for values in flat]
        table.append([Cell(value) for value in (key, shared, *own)])
    heads = [f"{row.task}: {summary.name_setting(row.setting)}" for row in rows]
    return _fill_sheet(sheet, [translate("key", language), translate("same_in_all", language), *heads], table)


def _join_configs(outcomes: Sequence[RunOutcome]) -> dict[str, Any]:
    """Write the configurations of a setting's seeds as one; a key in which seeds differ has all values."""
    flats = [dict(flatten_values(each.run.config)) for each in outcomes]
    joined: dict[str, Any] = {"seeds": ", ".join(str(each.run.seed) for each in outcomes)}
    for key in dict.fromkeys(key for flat in flats for key in flat if key not in _PER_RUN):
        values = list({repr(flat.get(key)): flat.get(key) for flat in flats}.values())
        joined[key] = values[0] if len(values) == 1 else "; ".join(map(str, values))
    return joined


def _fill_provenance(sheet: Worksheet, parts: WorkbookParts, language: Language) -> Losses:
    """Fill in where the numbers come from: the suite, then what its runs noted, each value with its number of runs."""
    rows = list_pairs(parts.suite)
    for key, value, count in _count_facts(parts.provenance):
        rows.append([Cell(f"run {key}"), Cell(value), Cell(count, "count")])
    return _fill_sheet(sheet, [translate(key, language) for key in ("key", "value", "num_runs")], rows)


def _count_facts(provenance: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any, int]]:
    """Count how many runs noted which value; of times the first start and the last end."""
    counts: dict[str, Counter[Any]] = {}
    for facts in provenance.values():
        for key, value in flatten_values({name: each for name, each in facts.items() if name not in _PER_START}):
            counts.setdefault(key, Counter())[value] += 1
    found = [(key, value, count) for key, counter in counts.items() for value, count in counter.most_common()]
    for key, choose in (("started", min), ("ended", max)):
        if times := [str(facts[key]) for facts in provenance.values() if key in facts]:
            found.insert(0, (f"{key} ({choose.__name__})", choose(times), len(times)))
    return found
