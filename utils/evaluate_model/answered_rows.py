"""Rows of answers that anything wrote, each with what it is judged by: a column of the same file, or a set's rows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from utils.config.sections.dataset import InstructionSection
from utils.config.sections.evaluation import SetSection
from utils.core.errors import DataError, UserError
from utils.core.texts import RowError, describe_kind, shorten_list
from utils.data.dataset import Row, find_dataset_plugin, load_dataset_plugin
from utils.data.instruction import load_generation_rows
from utils.data.rows import Rows, open_file
from utils.evaluate_model.requests import read_requests
from utils.evaluation.describing import choose_split
from utils.metrics.metric import Reference


@dataclass(frozen=True)
class Answered:
    """One row: its answers, one or more, and what they are judged by."""

    place: str
    texts: tuple[str, ...]
    references: tuple[Reference, ...]
    """The nearest of them counts."""
    groups: dict[str, str]


def read_answered(arguments: argparse.Namespace) -> tuple[list[Answered], str, tuple[str, ...]]:
    """Read the file of answers, each row with what it is judged by: a column of the file, or what a set has.

    Returns:
        The rows, what was set against what, and the set's own metrics.

    Raises:
        DataError: A row lacks a column, or is none of the set's; its place is named.
        UserError: The options do not say what answers are judged by.
    """
    rows, known = open_file(arguments.answers), _read_set(arguments)
    prediction = _choose(rows, arguments.prediction, "prediction")
    if known is not None:
        answered, against = _join(rows, known[0], prediction, arguments), arguments.sets[0]
    else:
        reference = _choose(rows, arguments.reference, "reference", "references")
        answered = [_read_row(rows, index, prediction, reference, arguments.groups) for index in range(len(rows))]
        against = f"column {reference}"
    return answered, f"answers in column {prediction} against {against}", known[1] if known else ()


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
    row: Row = rows[index]
    if not isinstance(row.get(column), str | int):
        raise DataError(f"{rows.place(index)}: no name in column {column}; there are: {shorten_list(row)}")
    return str(row[column])
