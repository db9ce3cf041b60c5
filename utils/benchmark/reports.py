"""Write the reports of a suite from the run records: JSON, CSV, Markdown, LaTeX and a workbook."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from utils.benchmark.aggregate import Comparison, compare_settings
from utils.benchmark.collapse import find_collapsed, measure_without
from utils.benchmark.notes import list_notes
from utils.benchmark.outcomes import FIGURES, RunOutcome, SuiteFacts
from utils.benchmark.run_rows import render_runs
from utils.benchmark.statistics import Stat, Summary, SummaryRow
from utils.benchmark.suite_page import build_suite_page
from utils.benchmark.tables import build_summary_table
from utils.benchmark.text_reports import render_csv, render_latex, render_markdown
from utils.benchmark.workbook import WorkbookParts, write_suite_workbook
from utils.core.errors import UserError
from utils.core.project import ROOT
from utils.core.replace_file import replace_text
from utils.results.json_file import read_json, write_json
from utils.results.page import write_page
from utils.results.provenance import PROVENANCE_FILE, find_git_state, format_time, list_versions
from utils.results.record import RESULTS_FILE
from utils.runs.report import REPORT

VERSION = 1


def write_reports(folder: Path, suite: SuiteFacts, summary: Summary, every: Sequence[RunOutcome]) -> dict[str, Path]:
    """Write results.json, .csv, .md, .tex, the workbook, runs.csv and report.html, each atomically.

    `every` has all runs, including those of searches, which appear in runs.csv only. Returns the files by kind.
    """
    outcomes = [each for each in every if not each.run.is_search]
    assert outcomes, "a suite without runs has nothing to report"
    comparisons = compare_settings(summary)
    notes = list_notes(suite, summary, comparisons)
    table = build_summary_table(summary, suite.language)
    provenance = _read_provenance(outcomes)
    facts = _describe_report(suite)
    paths = {kind: folder / f"results.{kind}" for kind in ("json", "csv", "md", "tex")}
    paths |= {"runs": folder / "runs.csv", "html": folder / REPORT}
    paths["xlsx"] = folder / f"{_name_workbook(suite, outcomes)}.xlsx"
    named = {kind: path.name for kind, path in paths.items()}
    write_json(paths["json"], _build_json(facts | {"files": named}, summary, comparisons, notes))
    _write_text(paths["runs"], render_runs(every, summary), bom=suite.language == "zh")
    _write_text(paths["csv"], render_csv(table, suite.language), bom=suite.language == "zh")
    _write_text(paths["md"], render_markdown(suite, summary, table, comparisons, notes))
    _write_text(paths["tex"], render_latex(suite, summary, comparisons))
    parts = WorkbookParts(summary, table, comparisons, notes, facts, provenance)
    write_suite_workbook(paths["xlsx"], parts, suite.language)
    write_page(paths["html"], build_suite_page(folder, suite, parts, every))
    return paths


def _describe_report(suite: SuiteFacts) -> dict[str, Any]:
    """Describe the suite and this report."""
    return {
        "suite": suite.name,
        "file": suite.source,
        "command": suite.command,
        "written": format_time(datetime.now(timezone.utc)),
        "git": find_git_state(ROOT),
        "versions": list_versions(),
    }


def _name_workbook(suite: SuiteFacts, outcomes: Sequence[RunOutcome]) -> str:
    """Return the workbook's name; `{timestamp}` is when its newest result was written, or now without any.

    The same results keep their file name however often reports are written.
    """
    times = [
        (each.run.folder / RESULTS_FILE).stat().st_mtime
        for each in outcomes
        if each.status == "success" and (each.run.folder / RESULTS_FILE).exists()
    ]
    moment = datetime.fromtimestamp(max(times)).astimezone() if times else datetime.now().astimezone()
    name = suite.workbook.removesuffix(".xlsx") or "results"
    return re.sub(r"[/\\\x00]", "_", name.replace("{timestamp}", moment.strftime("%Y%m%d_%H%M%S")))


def _read_provenance(outcomes: Sequence[RunOutcome]) -> dict[str, dict[str, Any]]:
    """Read the provenance of the runs with a result; an unreadable one is skipped."""
    found = {}
    for each in outcomes:
        if each.status != "success":
            continue
        try:
            noted = read_json(each.run.folder / PROVENANCE_FILE)
        except UserError:
            noted = None
        if noted:
            found[each.run.name] = noted
    return found


def _write_text(path: Path, text: str, bom: bool = False) -> None:
    """Write a text atomically; a byte order mark lets spreadsheet programs recognise UTF-8."""
    replace_text(path, text, encoding="utf-8-sig" if bom else "utf-8", errors="backslashreplace")


def _build_json(
    facts: dict[str, Any], summary: Summary, comparisons: Sequence[Comparison], notes: Sequence[str]
) -> dict[str, Any]:
    """Build results.json: scores from 0 to 1, all values over seeds with their mean, reasons of missing ones."""
    return {
        "version": VERSION,
        **facts,
        "rows": [_describe_row(row) for row in summary.rows],
        "averages": [
            {
                "method": each.setting.method,
                "grid": dict(each.setting.grid),
                "tasks": list(each.tasks),
                "missing": list(each.missing),
                "metrics": list(each.metrics),
                "runs": dict(zip(("done", "planned"), each.num_runs, strict=True)),
                "value": each.mean("best"),
                "over_seeds": _describe_stat(each.measure_over_seeds()),
            }
            for each in summary.averages
        ],
        "paired_differences": [_describe_comparison(each) for each in comparisons],
        "notes": list(notes),
    }


def _describe_row(row: SummaryRow) -> dict[str, Any]:
    figures, collapsed = row.runs[list(FIGURES)], find_collapsed(row)
    return {
        "task": row.task,
        "method": row.setting.method,
        "grid": dict(row.setting.grid),
        "kind": "baseline" if row.setting.is_baseline else "runs",
        "metric": row.metric,
        "figures": {name: _describe_stat(row.measure(name)) for name in figures.dropna(axis="columns", how="all")},
        "accuracy_is": sorted(row.find_kinds("accuracy")),
        "memory_is": sorted(row.find_kinds("memory")),
        "runs": [
            {
                "name": each.run.name,
                "seed": each.run.seed,
                "status": each.status,
                "note": each.note or None,
                "collapsed": collapsed.get(each.run.seed),
                **({"chosen": each.run.searched} if each.run.searched else {}),
                "figures": figures.loc[each.run.seed].dropna().to_dict(),
            }
            for each in row.outcomes
        ],
        "without_collapsed": _describe_stat(measure_without(row, collapsed)) if collapsed else None,
        "note": row.note or None,
    }


def _describe_stat(found: Stat | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"mean": found.mean, "deviation": found.deviation, "n": found.n, "interval": found.interval()}


def _describe_comparison(each: Comparison) -> dict[str, Any]:
    return {
        "task": each.task,
        "setting": {"method": each.setting.method, "grid": dict(each.setting.grid)},
        "reference": {"method": each.reference.method, "grid": dict(each.reference.grid)},
        "metric": each.metric,
        "seeds": list(each.seeds),
        "difference": each.difference.mean if each.difference else None,
        "interval": each.interval,
        "finding": each.finding,
    }
