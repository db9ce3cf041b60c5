"""Rows of existing answers with their references, from a column of the same file or from a set."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from utils.config.sections.dataset import InstructionSection
from utils.config.sections.evaluation import SetSection
from utils.core.errors import DataError, UserError
from utils.core.texts import RowError, describe_kind, shorten_list
from utils.data.dataset import Row, describe_instructions, find_dataset_plugin, load_dataset_plugin
from utils.data.instruction import load_generation_rows
from utils.data.rows import Rows, open_file
from utils.evaluate_model.requests import read_requests
from utils.evaluation.describing import choose_split
from utils.metrics.metric import Reference

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnsweredRow:
    """One row: its answers, one or more, and their references."""

    place: str
    texts: tuple[str, ...]
    references: tuple[Reference, ...]
    """The nearest one counts."""
    groups: dict[str, str]


def read_answered(arguments: argparse.Namespace) -> tuple[list[AnsweredRow], str, tuple[str, ...]]:
    """Read the file of answers, each row with its references: from a column of the file, or from a set.

    Returns:
        The rows, a description of answers and references, and the set's own metrics.

    Raises:
        DataError: A row lacks a column, or is not in the set; its place is named.
        UserError: The options do not name references.
    """
    rows, known = open_file(arguments.answers), _read_set(arguments)
    prediction = _choose(rows, arguments.prediction, "prediction")
    if known is not None:
        answered, against = _join(rows, known[0], prediction, arguments), arguments.sets[0]
    else:
        reference = _choose(rows, arguments.reference, "reference", "references")
        answered = [_read_row(rows, index, prediction, reference, arguments.groups) for index in range(len(rows))]
        against = f"column {reference}"
    for name in arguments.groups:
        if outside := sum(name not in row.groups for row in answered):
            logger.warning("--group %s: %d of %d rows have no value there and are in no group", name, outside,
                           len(answered))  # fmt: skip
    return answered, f"answers in column {prediction} against {against}", known[1] if known else ()


def _read_set(arguments: argparse.Namespace) -> tuple[dict[str, AnsweredRow], tuple[str, ...]] | None:
    """Read the references of the set by the ids of its rows, and its own metrics."""
    if not arguments.sets:
        if arguments.id:
            raise UserError("--id names the column by which rows of a --set are found; give one")
        return None
    if len(arguments.sets) > 1 or arguments.reference:
        raise UserError("--answers takes one --set or one --reference to score the answers against")
    section = read_requests(arguments.sets, None)[0]
    name = find_dataset_plugin(section.name)
    kind = load_dataset_plugin(name).Config if name else None
    if name is None or kind is None or not issubclass(kind, InstructionSection):
        raise UserError(f"--set {arguments.sets[0]}: no dataset of texts; give --reference COLUMN of the file itself")
    spec, config = _describe(section, name, kind)
    found = load_generation_rows(spec, config, seed=0)
    ids = found.ids if arguments.id else found.places
    if arguments.id and not (ids and all(ids)):
        raise UserError(f"--id: rows of {section.name} have no names; leave it out, the rows in the set's order")
    if arguments.id and len(set(ids)) < len(ids):
        counted = f"{len(ids)} rows of {section.name} have {len(set(ids))} names"
        raise UserError(f"--id: {counted}; leave it out, the rows in the set's order")
    rows = zip(ids, found.places, found.examples, strict=True)
    known = {each: AnsweredRow(place, (), (example.reference,), dict(example.groups)) for each, place, example in rows}
    return known, spec.metrics


def _describe(section: SetSection, name: str, kind: Any) -> tuple[Any, Any]:
    path = section.path or (section.name if section.name.lower() != name else None)
    keys = {"path": path, "subset": section.subset, "subsets": section.subsets, "protocol": section.protocol,
            "prompts_file": section.prompts_file, "max_eval_samples": section.max_samples}  # fmt: skip
    given = {key: value for key, value in keys.items() if value is not None}
    if stray := [key for key in given if key not in kind.model_fields]:
        raise UserError(f"--set: {name} takes no {stray[0]}; leave it out")
    config = kind(name=name, **given)
    spec = describe_instructions(config)
    return replace(spec, generation_split=choose_split(section, path, spec)), config


def _choose(rows: Rows, asked: str | None, *defaults: str) -> str:
    """Return the requested column, or the one with a default name."""
    there = rows.column_names()
    found = [name for name in ((asked,) if asked else defaults) if name in there]
    if not found:
        what = f"no column {asked or ' or '.join(defaults)}"
        raise UserError(f"--{defaults[0]}: {what} in {rows.place(0)}; there are: {shorten_list(there)}")
    return found[0]


def _read_groups(row: Row, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the value that a row has in each column of groups; a row without one is in no group."""
    for name in names:
        if name not in row:
            raise RowError(f"no column {name}; there are: {shorten_list(row)}")
        if isinstance(row[name], list | dict):
            raise RowError(f"column {name} holds {describe_kind(row[name])} instead of the name of a group")
        if row[name] is not None:
            yield name, str(row[name])


def _read_row(rows: Rows, index: int, prediction: str, reference: str | None, groups: Sequence[str]) -> AnsweredRow:
    try:
        row = rows[index]
        texts = tuple(_read_texts(row, prediction))
        right = tuple(_read_references(row, reference)) if reference else ()
        kinds = dict(_read_groups(row, groups))
    except RowError as error:
        raise DataError(f"{rows.place(index)}: {error}") from error
    return AnsweredRow(rows.place(index), texts, right, kinds)


def _read_texts(row: Mapping[str, Any], column: str) -> Iterator[str]:
    """Yield a text, a whole number as text, or each of a list of them."""
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


def _join(
    rows: Rows, known: Mapping[str, AnsweredRow], prediction: str, arguments: argparse.Namespace
) -> list[AnsweredRow]:
    """Combine the file's answers, several per row if it has several, with the references of the set."""
    read = [_read_row(rows, index, prediction, None, arguments.groups) for index in range(len(rows))]
    if arguments.id is None and len(read) != len(known):
        raise DataError(f"{arguments.answers}: {len(read)} rows for the set's {len(known)}; name the column by --id")
    keys = list(known) if arguments.id is None else [_read_id(rows, index, arguments.id) for index in range(len(rows))]
    found: dict[str, AnsweredRow] = {}
    for index, (key, answer) in enumerate(zip(keys, read, strict=True)):
        if key not in known:
            raise DataError(f"{rows.place(index)}: the set has no row named {key}")
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
