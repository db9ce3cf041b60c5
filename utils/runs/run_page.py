"""The page of a run: its scores, curves, answers, data, settings and environment."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from utils.config.run_config import RunConfig
from utils.results.columns import list_retention
from utils.results.labels import Language, is_score, translate
from utils.results.page import (
    Block,
    Facts,
    Figures,
    Page,
    PartOfPage,
    Sample,
    Samples,
    Sentences,
    Table,
    TableCell,
    Tone,
)  # fmt: skip
from utils.results.provenance import show_hardware, show_time
from utils.results.record import RunRecord
from utils.results.table import show_share, show_value
from utils.results.workbook import flatten_values
from utils.runs.first_answers import NUM_SHOWN, ShownAnswer, read_answers
from utils.runs.model_card import list_scores

_NUM_MISTAKES = 5
_ROWS_FOR_MISTAKES = 2000  # in which mistakes are searched
_LONGEST_ANSWER = 4000  # characters; more is visibly cut
_MOST_CLASSES = 30  # of a readable confusion matrix
_TONES: dict[str, Tone] = {"success": "good", "failed": "bad", "interrupted": "other"}


def build_page(
    folder: Path, config: RunConfig, record: RunRecord, provenance: Mapping[str, Any], charts: list[Any]
) -> Page:
    """Build the page of a run."""
    language = config.results.language

    def name(key: str) -> str:
        return translate(key, language)

    moment = show_time(str(provenance.get("ended") or provenance.get("started") or ""))
    subtitle = [record.method, record.task_type, config.model.name_or_path, f"{name('seed')} {record.seed}", moment]
    parts = [
        PartOfPage("", tuple(_summarise(record, language))),
        PartOfPage(name("scores_of_sets"), tuple(_show_scores(folder, record, language))),
        PartOfPage(name("curves"), (Figures(tuple(charts)),) if charts else ()),
        PartOfPage(name("answers"), tuple(_show_answers(folder, language))),
        PartOfPage(name("data"), tuple(_show_data(record, language))),
        PartOfPage(name("configuration"), tuple(_show_configuration(config, language))),
        PartOfPage(name("environment"), tuple(_show_environment(provenance, language))),
    ]
    status = (name(record.status), _TONES[record.status])
    return Page(record.task_name, status, " · ".join(filter(None, subtitle)), parts, language)


def _summarise(record: RunRecord, language: Language) -> Iterator[Block]:
    """Yield the summary: the score, its cost, and what went wrong."""
    facts, (metric, value) = [], record.read_headline()
    if metric and value is not None:
        notes = []
        if bounds := record.interval.get(metric):
            low, high = (show_value(metric, bound) for bound in bounds)
            notes.append(f"{translate('interval', language)} {low} .. {high}")
        if metric in record.baseline:
            notes.append(f"{translate('majority', language)} {show_value(metric, record.baseline[metric])}")
        shown = f"{metric} x100" if is_score(metric) else metric
        facts.append((shown, show_value(metric, value), "; ".join(notes)))
    params, memory, time, data = record.params, record.memory, record.time, record.data
    peak, kind = (
        (memory.peak_rss_gb, "peak_rss") if memory.peak_vram_gb is None else (memory.peak_vram_gb, "peak_vram")
    )  # fmt: skip
    share = f"{show_share(params.trainable_percent)} %" if params.trainable_percent is not None else ""
    measured = (
        ("trainable", params.trainable, ",", share),
        (kind, peak, ".2f", ""),
        ("train_runtime", time.train_runtime_s, ",.1f", ""),
        ("tokens_per_s", time.tokens_per_s, ",.0f", ""),
        ("train_rows", data.train_rows, ",", ""),
    )
    facts += [
        (translate(key, language), format(each, form), note) for key, each, form, note in measured if each is not None
    ]
    if error := record.extra.get("error"):
        yield Sentences((str(error),), "bad")
    if facts:
        yield Facts(tuple(facts))
    if record.warnings:
        yield Sentences(tuple(record.warnings), "other")


def _show_scores(folder: Path, record: RunRecord, language: Language) -> Iterator[Block]:
    scores = list_scores(record)
    if scores:
        headline, _ = record.read_headline()
        scores.sort(key=lambda row: row[0].removesuffix(" x100") != headline)
        baselines = {name: show_value(name, value) for name, value in record.baseline.items()}
        rows = [(*row[:3], baselines.get(row[0].removesuffix(" x100"), ""), row[3]) for row in scores]
        keys = ("metric", "value", "interval", "majority", "protocol")
        yield _build_table("scores_of_sets", keys, rows, {1, 2, 3}, language)
    if kept := [(label, f"{cell.value:.2f}") for label, cell in list_retention(record)]:
        yield _build_table("retention", ("metric", "value"), kept, {1}, language)
    for file in find_confusions(folder):
        yield from _show_confusion(file, language)


def _show_confusion(file: Path, language: Language) -> Iterator[Block]:
    """Yield a confusion matrix, each row tinted by its shares, and the scores of each class."""
    head, *body = read_table(file)
    if len(body) <= _MOST_CLASSES:
        rows: list[tuple[TableCell | str, ...]] = []
        for label, *counts in body:
            total = sum(map(int, counts)) or 1
            cells = zip(head[1:], counts, strict=True)
            rows.append(
                (label, *(TableCell(count, int(count) / total, is_marked=name == label) for name, count in cells))
            )
        caption = f"{file.parent.name.removeprefix('eval_')}: {translate('confusion', language)}"
        yield Table(caption, ("", *head[1:]), tuple(rows), frozenset(range(1, len(head))))
    if (classes := file.with_name("classes.csv")).is_file():
        keys = ("class", "precision", "recall", "f1", "rows")
        rows_of = [
            (label, *(f"{float(each) * 100:.2f}" for each in values[:3]), values[3])
            for label, *values in read_table(classes)[1:]
        ]
        yield _build_table("classes", keys, rows_of, {1, 2, 3, 4}, language, len(rows_of) > _MOST_CLASSES)


def find_confusions(folder: Path) -> list[Path]:
    """Find the confusion matrices of a run's classifier."""
    return sorted(folder.glob("eval_*/confusion.csv"))


def read_table(file: Path) -> list[list[str]]:
    """Read a CSV file, header first."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))


def _show_answers(folder: Path, language: Language) -> Iterator[Block]:
    """Yield the first rows of each set, and rows with wrong answers."""
    for file in sorted(folder.glob("eval_*/predictions.jsonl")):
        label = file.parent.name.removeprefix("eval_")
        answers = list(islice(read_answers(file.parent, language), _ROWS_FOR_MISTAKES))
        wrong = [each for each in answers[NUM_SHOWN:] if each.is_right is False][:_NUM_MISTAKES]
        for key, found in (("first_rows", answers[:NUM_SHOWN]), ("mistakes", wrong)):
            if found:
                shown = tuple(_show_answer(each, language) for each in found)
                yield Samples(f"{label}: {translate(key, language)}", shown)


def _show_answer(answer: ShownAnswer, language: Language) -> Sample:
    parts = tuple(answer.list_parts(language, _LONGEST_ANSWER))
    if answer.is_right is None:
        return Sample(answer.title, parts)
    tone: Tone = "good" if answer.is_right else "bad"
    return Sample(answer.title, parts, tone, translate("right" if answer.is_right else "wrong", language))


def _show_data(record: RunRecord, language: Language) -> Iterator[Block]:
    rows = []
    for split, facts in record.extra.get("splits", {}).items():
        lengths = facts.get("token_lengths", {})
        cut = facts.get("truncated_rows", facts.get("prompts_cut", 0) + facts.get("answers_cut", 0))
        counts = (facts.get("rows", facts.get("rows_used")), cut, lengths.get("p50"), lengths.get("max"))
        rows.append((str(split), *("" if each is None else f"{each:,}" for each in counts)))
    if rows:
        keys = ("split", "rows", "truncated_rows", "typical", "longest")
        yield _build_table("data", keys, rows, {1, 2, 3, 4}, language)


def _show_configuration(config: RunConfig, language: Language) -> Iterator[Block]:
    """Yield the settings that differ from the defaults, and the whole configuration, folded."""
    own = {
        "model": config.model.model_dump(exclude_defaults=True),
        "peft": {"method": config.peft.method, **config.peft.model_dump(exclude_defaults=True, exclude={"task_type"})},
        "dataset": {"name": config.dataset.name, **config.dataset.model_dump(exclude_defaults=True)},
        "training": config.training.model_dump(exclude_unset=True, exclude_defaults=True),
    }
    for caption, values, is_folded in (("configuration", own, False), ("all_settings", config.to_dict(), True)):
        rows = [(key, str(value)) for key, value in flatten_values(values) if value is not None]
        yield _build_table(caption, ("setting", "value"), rows, set(), language, is_folded)


def _show_environment(provenance: Mapping[str, Any], language: Language) -> Iterator[Block]:
    git = provenance.get("git") or {}
    facts = {
        "command": provenance.get("command"),
        "started": provenance.get("started"),
        "commit": git.get("commit"),
        "hardware": show_hardware(provenance),
        "platform": provenance.get("platform"),
    }
    rows = [(translate(key, language), str(value)) for key, value in facts.items() if value]
    if rows:
        yield _build_table("environment", ("key", "value"), rows, set(), language)
    if versions := [(name, str(each)) for name, each in (provenance.get("versions") or {}).items()]:
        yield _build_table("software", ("key", "value"), versions, set(), language, is_folded=True)


def _build_table(
    caption: str,
    heads: tuple[str, ...],
    rows: list[Any],
    numeric: set[int],
    language: Language,
    is_folded: bool = False,
) -> Table:
    """Build a table without columns that are empty in all rows."""
    filled = [index for index in range(len(heads)) if any(row[index] for row in rows)]
    kept = tuple(tuple(row[index] for index in filled) for row in rows)
    numbers = frozenset(place for place, index in enumerate(filled) if index in numeric)
    named = tuple(translate(heads[index], language) for index in filled)
    return Table(translate(caption, language), named, kept, numbers, is_folded)
