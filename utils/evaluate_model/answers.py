"""Scores answers that anything wrote, without a model: a file of rows, or a set's references, and the metrics."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from utils.config.sections.dataset import InstructionSection
from utils.config.sections.evaluation import EvaluationSection, SetSection, explain_metrics, label_of
from utils.config.yaml_text import read_overrides
from utils.core.errors import DataError, UserError
from utils.core.texts import RowError, describe_kind, shorten_list
from utils.data.dataset import find_dataset_plugin, load_dataset_plugin
from utils.data.instruction import load_generation_rows
from utils.data.rows import RawRow, Rows, open_file
from utils.evaluate_model.folders import Entry
from utils.evaluate_model.requests import read_requests
from utils.evaluation.describing import choose_split
from utils.evaluation.files import PREDICTIONS, RESULTS, write_object, write_records
from utils.evaluation.score import summarize, summarize_groups
from utils.evaluation.sets import resolve_references
from utils.metrics.longbench_score import CODE_SIMILARITIES
from utils.metrics.metric import Array, Metric, Reference, load_metric
from utils.metrics.pass_at_k import allow_code_execution

_JUDGES = (
    ("evaluation", "allow_code_execution"), ("evaluation", "longbench"), ("evaluation", "truthfulqa"),
)  # fmt: skip
_ONLY_WITH = ("metrics", "prediction", "reference", "groups", "id")
"""Options that have a meaning beside --answers alone."""


@dataclass(frozen=True)
class Answered:
    """One row: its answers, one or more, and what they are judged by."""

    place: str
    texts: tuple[str, ...]
    references: tuple[Reference, ...]
    """The nearest of them counts."""
    groups: dict[str, str]


def add_answers(parser: argparse.ArgumentParser) -> None:
    """Let the command take a file of answers in place of a model."""
    group = parser.add_argument_group("answers that are there already (no model is loaded)")
    group.add_argument("--answers", metavar="FILE", help="rows with answers: .jsonl, .json, .csv, .tsv or .parquet")
    group.add_argument("--metric", action="append", default=[], dest="metrics", metavar="NAME",
                       help="how they are scored; repeatable; default: the metrics of --set")  # fmt: skip
    group.add_argument("--prediction", metavar="COLUMN", help="column of the answer, or of a list of answers")
    group.add_argument("--reference", metavar="COLUMN",
                       help="column of what is right, or of a list of it; default: as --set has it")  # fmt: skip
    group.add_argument("--group", action="append", default=[], dest="groups", metavar="COLUMN",
                       help="score the rows of each value of this column apart; repeatable")  # fmt: skip
    group.add_argument("--id", metavar="COLUMN",
                       help="column of the name that a row has in --set; default: by order")  # fmt: skip

    parser.add_argument(
        "--allow_code_execution",
        action="store_true",
        help="run the programs that a model wrote, for pass_at_1 and its like (docs/security.md)",
    )
    parser.add_argument(
        "--code_similarity",
        choices=CODE_SIMILARITIES,
        help="what LongBench's lcc and repobench-p are scored by (docs/longbench.md); default: difflib",
    )


def words_of_flags(arguments: argparse.Namespace) -> list[str]:
    """Give what flags say as `key=value` words."""
    words = ["evaluation.allow_code_execution=true"] if arguments.allow_code_execution else []
    similarity = arguments.code_similarity
    return words + ([f"evaluation.longbench.code_similarity={similarity}"] if similarity else [])


def is_asked(arguments: argparse.Namespace) -> bool:
    """Tell whether answers are to be scored.

    Raises:
        UserError: There are none, but options that only they have.
    """
    if arguments.answers is None:
        if stray := [each for each in _ONLY_WITH if getattr(arguments, each)]:
            raise UserError(f"--{stray[0].rstrip('s')} is for --answers FILE, which is not given")
        return False
    if arguments.run or arguments.model or arguments.adapter:
        raise UserError("--answers needs no model; take --run, --model or --adapter out")
    return True


def _read_judges(words: Sequence[str]) -> EvaluationSection:
    """Read the `key=value` words that say how answers are judged.

    Raises:
        UserError: One of them says something else.
    """
    document = read_overrides(words)
    if stray := [".".join(path) for path, _ in document.leaves() if path[:2] not in _JUDGES]:
        known = ", ".join(".".join(path) for path in _JUDGES)
        raise UserError(f"{stray[0]}: has no effect on answers that are there already; they take {known}")
    try:
        return EvaluationSection.model_validate(document.get(("evaluation",), {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"evaluation.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def score_answers(arguments: argparse.Namespace) -> Entry:
    """Score a file of answers by each metric, with intervals and by group; write the rows where a folder is named.

    Raises:
        DataError: A row lacks a column, or holds what a metric cannot judge by; its place is named.
        UserError: The options do not say what to score.
    """
    rows, judges = open_file(arguments.answers), _read_judges(arguments.overrides)
    known = _read_set(arguments)
    names = tuple(arguments.metrics) or (known[1] if known else ())
    if not names:
        raise UserError("--answers: name at least one --metric, or a --set that has its own")
    if wrong := explain_metrics(names):
        raise UserError(f"--metric: {wrong}")
    prediction = _choose(rows, arguments.prediction, "prediction")
    if known is None:
        reference = _choose(rows, arguments.reference, "reference", "references")
        answered = [_read_row(rows, index, prediction, reference, arguments.groups) for index in range(len(rows))]
        against = f"column {reference}"
    else:
        answered = _join(rows, known[0], prediction, arguments)
        against = arguments.sets[0]
    answered, scorer = _resolve(answered, names, judges)
    metrics = [load_metric(name) for name in names]
    for metric in metrics:
        _require_kind(metric, answered)
    columns = {metric.name: _score(metric, answered) for metric in metrics if metric.score_rows is not None}
    summary = summarize(columns)
    of_all = {metric.name: _score_all(metric, answered) for metric in metrics if metric.score_rows is None}
    every = {**summary["metrics"], **of_all}
    summary["metrics"] = {metric.name: every[metric.name] for metric in metrics if metric.name in every}
    result: dict[str, Any] = {
        "label": label_of(arguments.answers),
        **summary,
        "n": len(answered),
        "num_total": len(answered),
        "partial": False,
        "num_answers": sum(len(each.texts) for each in answered),
        "scorer": scorer,
        "protocol": f"answers in column {prediction} against {against}",
        "groups": summarize_groups(columns, [each.groups for each in answered]),
    }
    folder = Path(arguments.output_dir).expanduser() if arguments.output_dir else Path(arguments.answers)
    if arguments.output_dir:
        folder.mkdir(parents=True, exist_ok=True)
        write_records(folder / PREDICTIONS, _list_records(answered, columns))
        write_object(folder / RESULTS, {"version": 1, **result})
    return Entry(result["label"], folder, result, tuple(result["metrics"]), reused=False)


def _resolve(
    answered: list[Answered], names: Sequence[str], judges: EvaluationSection
) -> tuple[list[Answered], str | None]:
    """Let answers be judged as is said, and programs be run where it is allowed."""
    if judges.allow_code_execution:
        allow_code_execution()
    flat, scorer = resolve_references(names, [each for row in answered for each in row.references], judges)
    rest = iter(flat)
    return [replace(row, references=tuple(next(rest) for _ in row.references)) for row in answered], scorer


def _read_set(arguments: argparse.Namespace) -> tuple[dict[str, Answered], tuple[str, ...]] | None:
    """Read the references of the set by the names of its rows, and its own metrics."""
    if not arguments.sets:
        if arguments.id:
            raise UserError("--id names the column by which rows of a --set are found; give one")
        return None
    if len(arguments.sets) > 1 or arguments.reference:
        raise UserError("--answers takes one --set or one --reference: what the answers are judged by")
    section = read_requests(arguments.sets, None)[0]
    name = find_dataset_plugin(section.name)
    kind = load_dataset_plugin(name).Config if name else None
    if name is None or kind is None or not issubclass(kind, InstructionSection):
        raise UserError(f"--set {arguments.sets[0]}: no dataset of texts; give --reference COLUMN of the file itself")
    spec, config = _describe(section, name, kind)
    found = load_generation_rows(spec, config, seed=0)
    ids = found.ids if arguments.id else found.places
    if arguments.id and not all(ids):
        raise UserError(f"--id: rows of {section.name} have no names; leave it out, the rows in the set's order")
    rows = zip(ids, found.places, found.examples, strict=True)
    known = {each: Answered(place, (), (example.reference,), dict(example.groups)) for each, place, example in rows}
    return known, spec.metrics


def _describe(section: SetSection, name: str, kind: Any) -> tuple[Any, Any]:
    path = section.path or (section.name if section.name.lower() != name else None)
    keys = {"path": path, "subset": section.subset, "subsets": section.subsets, "protocol": section.protocol,
            "prompts_file": section.prompts_file, "max_eval_samples": section.max_samples}  # fmt: skip
    given = {key: value for key, value in keys.items() if value is not None}
    if stray := [key for key in given if key not in kind.model_fields]:
        raise UserError(f"--set: {name} takes no {stray[0]}; leave it out")
    config = kind(name=name, **given)
    spec = load_dataset_plugin(name).describe_instructions(config)
    return replace(spec, generation_split=choose_split(section, path, spec)), config


def _choose(rows: Rows, asked: str | None, *defaults: str) -> str:
    """Find the column that is asked for, or one of the usual name."""
    there = rows.column_names()
    found = [name for name in ((asked,) if asked else defaults) if name in there]
    if not found:
        what = f"no column {asked or ' or '.join(defaults)}"
        raise UserError(f"--{defaults[0]}: {what} in {rows.place(0)}; there are: {shorten_list(there)}")
    return found[0]


def _read_row(rows: Rows, index: int, prediction: str, reference: str | None, groups: Sequence[str]) -> Answered:
    try:
        row = rows[index]
        texts = tuple(_read_texts(row, prediction))
        right = tuple(_read_references(row, reference)) if reference else ()
        kinds = {name: str(row[name]) for name in groups if row.get(name) is not None}
        if missing := [name for name in groups if name not in row]:
            raise RowError(f"no column {missing[0]}; there are: {shorten_list(row)}")
    except RowError as error:
        raise DataError(f"{rows.place(index)}: {error}") from error
    return Answered(rows.place(index), texts, right, kinds)


def _read_texts(row: Mapping[str, Any], column: str) -> Iterator[str]:
    """Read a text, a whole number, or a list of them."""
    if column not in row:
        raise RowError(f"no column {column}; there are: {shorten_list(row)}")
    values = row[column] if isinstance(row[column], list) else [row[column]]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowError(f"column {column} holds {describe_kind(value)} instead of a text")
        yield str(value)
    if not values:
        raise RowError(f"column {column} holds an empty list")


def _read_references(row: Mapping[str, Any], column: str) -> Iterator[Reference]:
    if isinstance(row.get(column), dict):
        yield row[column]
    else:
        yield from _read_texts(row, column)


def _join(rows: Rows, known: Mapping[str, Answered], prediction: str, arguments: argparse.Namespace) -> list[Answered]:
    """Put the file's answers, several of a row where it has several, behind the references of the set."""
    read = [_read_row(rows, index, prediction, None, arguments.groups) for index in range(len(rows))]
    if arguments.id is None and len(read) != len(known):
        raise DataError(f"{arguments.answers}: {len(read)} rows for the set's {len(known)}; name the column by --id")
    keys = list(known) if arguments.id is None else [_read_id(rows, index, arguments.id) for index in range(len(rows))]
    found: dict[str, Answered] = {}
    for index, (key, answer) in enumerate(zip(keys, read, strict=True)):
        if key not in known:
            raise DataError(f"{rows.place(index)}: the set has no row called {key}")
        before = found.get(key) or known[key]
        groups = {**before.groups, **answer.groups}
        found[key] = replace(before, texts=(*before.texts, *answer.texts), groups=groups)
    if missing := [key for key in known if key not in found]:
        raise DataError(f"{arguments.answers}: no answer to {len(missing)} of the set's {len(known)} rows: "
                        f"{shorten_list(missing, 5)}; a split such as test[:20] takes a part of a set")  # fmt: skip
    return [found[key] for key in known]


def _read_id(rows: Rows, index: int, column: str) -> str:
    row: RawRow = rows[index]
    if not isinstance(row.get(column), str | int):
        raise DataError(f"{rows.place(index)}: no name in column {column}; there are: {shorten_list(row)}")
    return str(row[column])


def _require_kind(metric: Metric, answered: Sequence[Answered]) -> None:
    """Check that a metric can judge by what each row is judged by, and that what it needs is there."""
    metric.prepare()
    for row in answered:
        if stray := [each for each in row.references if not metric.takes(each)]:
            keys = ", ".join(metric.reference_keys)
            needs = f"an object with {keys}" if keys else "a text"
            raise DataError(f"{row.place}: {metric.name} judges by {needs}; got {str(stray[0])[:60]!r}")


def _score(metric: Metric, answered: Sequence[Answered]) -> Array:
    """Score each row (n,): the nearest of its references counts, and what the metric makes of several answers."""
    import numpy as np

    pairs = [(text, each) for row in answered for text in row.texts for each in row.references]
    assert metric.score_rows is not None, f"got the metric {metric.name} of {metric.kind}"
    scores = metric.score_rows([text for text, _ in pairs], [reference for _, reference in pairs])
    found, start = [], 0
    for row in answered:
        size = len(row.texts) * len(row.references)
        of_row = scores[start : start + size].reshape(len(row.texts), -1)
        start += size
        nearest = np.fmax.reduce if metric.greater_is_better else np.fmin.reduce
        found.append(metric.join_answers(nearest(of_row, axis=1)))
    return np.array(found, dtype=np.float64)


def _score_all(metric: Metric, answered: Sequence[Answered]) -> float:
    """Score by a metric that sees all rows at once: each answer beside the one reference of its row, or all of them."""
    texts = [text for row in answered for text in row.texts]
    right: list[Any] = [list(row.references) for row in answered for _ in row.texts]
    return float(metric.score(texts, [each[0] for each in right] if all(len(each) == 1 for each in right) else right))


def _list_records(answered: Sequence[Answered], columns: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    for row, each in enumerate(answered):
        scores = {name: None if (value := float(column[row])) != value else value for name, column in columns.items()}
        groups = {"groups": each.groups} if each.groups else {}
        prediction = each.texts[0] if len(each.texts) == 1 else list(each.texts)
        yield {"row": row, "id": each.place, **groups, "prediction": prediction, "references": list(each.references),
               "scores": scores}  # fmt: skip
