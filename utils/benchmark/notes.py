"""Notes on a suite's tables: what is missing, what was mixed, and what may be claimed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from utils.benchmark.aggregate import Comparison
from utils.benchmark.collapse import find_collapsed, measure_without
from utils.benchmark.outcomes import RunOutcome, SuiteFacts
from utils.benchmark.statistics import Summary
from utils.benchmark.text_reports import name_some
from utils.results.labels import Language, translate
from utils.results.sentences import phrase


def list_notes(suite: SuiteFacts, summary: Summary, comparisons: Sequence[Comparison]) -> list[str]:
    """List the notes that apply to these tables."""
    language = suite.language
    return [
        *_list_unfinished(summary, language),
        *_list_collapsed(summary, language),
        *_list_chosen(summary, language),
        *_explain_figures(summary, language),
        *_explain_averages(summary, language),
        *_explain_claims(summary, comparisons, language),
        *([phrase("majority_row", language)] if suite.baselines else []),
    ]


def _list_unfinished(summary: Summary, language: Language) -> Iterator[str]:
    """Yield notes on runs without a result, with the reason, and on partial scores."""
    runs = {each.run.name: each for row in summary.rows for each in row.outcomes}.values()  # MNLI's are in two rows
    missing = [each for each in runs if each.status != "success"]
    if missing:
        by_reason: dict[str, list[str]] = {}
        for each in missing:
            by_reason.setdefault(_describe_status(each, language), []).append(each.run.name)
        named = [f"{name_some(names, language)} ({reason})" for reason, names in by_reason.items()]
        yield phrase("unfinished", language, num=len(missing), planned=len(runs), runs=name_some(named, language))
    records = {each.run.name: each.record for each in runs if each.status == "success"}
    partial = [name for name, record in records.items() if record and record.extra.get("partial")]
    if partial:
        yield phrase("partial_scores", language, num=len(partial), runs=name_some(partial, language))


def _list_collapsed(summary: Summary, language: Language) -> Iterator[str]:
    """Yield notes on the collapsed runs, and on each mean with and without them."""
    found = {row: collapsed for row in summary.rows if (collapsed := find_collapsed(row))}
    if not found:
        return
    named = [
        f"{row.outcomes_by_seed[seed].run.name} ({translate(why, language)})"
        for row, collapsed in found.items()
        for seed, why in collapsed.items()
    ]
    yield phrase("collapsed", language, runs=name_some(named, language))
    for row, collapsed in found.items():
        if (without := measure_without(row, collapsed)) is None:
            continue  # all have collapsed
        yield phrase(
            "without_collapsed",
            language,
            place=f"{row.task}, {summary.name_setting(row.setting)}",
            mean=f"{row.factor * (row.mean('best') or 0):.2f}",
            n=row.num_measured,
            without=f"{row.factor * without.mean:.2f}",
            rest=row.num_measured - len(collapsed),
        )


def _list_chosen(summary: Summary, language: Language) -> Iterator[str]:
    """Yield the values that searches have chosen."""
    chosen = [
        f"{row.task}, {summary.name_setting(row.setting)}: {key}={value}"
        for row in summary.rows
        if row.outcomes and not row.suffix
        for key, value in (row.outcomes[0].run.searched or {}).items()
    ]
    if chosen:
        yield phrase("searched", language, values="; ".join(chosen))


def _explain_figures(summary: Summary, language: Language) -> Iterator[str]:
    rows = summary.rows
    yield phrase("scale", language)
    yield phrase("chosen", language)
    if any(row.find_kinds("accuracy") == {"pearson"} for row in rows):
        yield phrase("pearson_mark", language)
    if any(row.find_kinds("memory") == {"ram"} for row in rows):
        yield phrase("ram_mark", language)
    if any(len(row.find_kinds(name)) > 1 for row in rows for name in ("accuracy", "memory")):
        yield phrase("mixed_kinds", language)
    if any(len(row.runs) > 1 for row in rows):
        yield phrase("over_several", language)
    yield phrase("intervals", language)


def _explain_averages(summary: Summary, language: Language) -> Iterator[str]:
    """Yield notes on the metrics that averages mix, and on settings without an average."""
    whole = [each for each in summary.averages if not each.missing]
    if whole:
        tasks = ", ".join(whole[0].tasks)
        names = list(dict.fromkeys(name for each in whole for name in each.metrics))
        metrics = phrase("metric_mix", language, metrics=", ".join(names)) if len(names) > 1 else ""
        pearson = [row.task for row in whole[0].rows if row.find_kinds("accuracy") == {"pearson"}]
        is_mixed = pearson and len(pearson) < len(whole[0].rows)
        accuracy = phrase("accuracy_mix", language, tasks=", ".join(pearson)) if is_mixed else ""
        yield phrase("average_mix", language, tasks=tasks, metrics=metrics, accuracy=accuracy)
    for each in summary.averages:
        if each.missing:
            named = summary.name_setting(each.setting)
            yield phrase("no_average", language, setting=named, tasks=", ".join(each.missing))


def _explain_claims(summary: Summary, comparisons: Sequence[Comparison], language: Language) -> Iterator[str]:
    if any(each.interval for each in comparisons):
        references = dict.fromkeys(summary.name_setting(each.reference) for each in comparisons)
        yield phrase("comparisons", language, reference=" / ".join(references))
    elif comparisons:
        yield phrase("no_claims", language)


def _describe_status(outcome: RunOutcome, language: Language) -> str:
    return ": ".join(filter(None, (translate(outcome.status, language), outcome.note)))
