"""Rows of a classification or regression set as they are written: texts, labels, places; and how some are held out."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from utils.core.errors import DataError
from utils.core.texts import RowError, describe_kind, shorten_list
from utils.data.classification_set import ClassificationSet
from utils.data.dataset import count_held_out
from utils.data.labels import LabelCoder
from utils.data.reading import BadRows
from utils.data.rows import Rows

_ID_COLUMNS = ("index", "id", "idx")


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a split that can be read."""

    name: str
    """`train`, `eval` + suffix, `test` + submission."""
    rows: Rows
    """All of them."""
    positions: list[int]
    """Which of them these are; the lists below go with it."""
    texts: dict[str, list[Any]]
    """By column."""
    labels: list[Any]
    """As the data has them; empty where there are none."""
    ids: list[Any]
    """The rows' own numbers or names, which a benchmark's server knows; empty where there are none."""
    bad: BadRows = field(default_factory=BadRows)
    """The others."""

    def __len__(self) -> int:
        return len(self.positions)

    def place(self, index: int) -> str:
        """Name a row."""
        return self.rows.place(self.positions[index])

    def select(self, indices: Iterable[int]) -> LabelledRows:
        """Give some of the rows."""
        chosen = list(indices)

        def take(values: Sequence[Any]) -> list[Any]:
            return [values[index] for index in chosen] if values else []

        texts = {column: take(values) for column, values in self.texts.items()}
        return replace(self, positions=take(self.positions), texts=texts, labels=take(self.labels), ids=take(self.ids))

    def first_places(self) -> dict[Any, str]:
        """Give every label with the place of its first row."""
        first: dict[Any, int] = {}
        for index, label in enumerate(self.labels):
            first.setdefault(label, index)
        return {label: self.place(index) for label, index in first.items()}


def read_labelled_rows(name: str, rows: Rows, spec: ClassificationSet) -> LabelledRows:
    """Read a split.

    Args:
        name: What it is called in messages; the labels of `test` splits are not looked at.
        rows: The split.
        spec: The set.

    Raises:
        DataError: It is empty, or lacks a column.
    """
    if len(rows) == 0:
        raise DataError(f"{spec.path}: the split {name} is empty")
    there = rows.column_names()
    _require_columns(there, name, spec)
    id_column = next((column for column in _ID_COLUMNS if column in there), None) if name.startswith("test") else None
    read = LabelledRows(name, rows, [], {column: [] for column in spec.text_columns}, [], [])
    for index in range(len(rows)):
        try:
            row = rows[index]
            _check_values(row, (*spec.text_columns, spec.label_column))
        except RowError as error:
            read.bad.add(rows.place(index), error)
            continue
        read.positions.append(index)
        for column, values in read.texts.items():
            values.append(row.get(column))
        if spec.label_column in there:
            read.labels.append(row.get(spec.label_column))
        if id_column is not None:
            read.ids.append(row.get(id_column))
    return read


def encode_labels(rows: LabelledRows, coder: LabelCoder) -> tuple[LabelledRows, list[int | float]]:
    """Encode the labels; rows without a usable one become bad ones."""
    kept, codes = [], []
    for index, label in enumerate(rows.labels):
        try:
            codes.append(coder.encode(label))
            kept.append(index)
        except RowError as error:
            rows.bad.add(rows.place(index), error)
    return rows.select(kept), codes


def hold_out(num_rows: int, classes: Sequence[Any] | None, size: float, seed: int, path: str) -> set[int]:
    """Draw rows to validate on, of each class its share; no class loses its last row.

    Args:
        num_rows: Rows that there are.
        classes: Their labels as the data has them, so that no model decides; None: no classes.
        size: Rows, or below 1 the share of the rows.
        seed: Decides which.
        path: Of the rows, for messages.

    Raises:
        DataError: Too few rows would be left to train on.
    """
    wanted = count_held_out(size, num_rows)
    groups: dict[str, list[int]] = defaultdict(list)
    for index in range(num_rows):
        groups[str(classes[index]) if classes else ""].append(index)
    if wanted > num_rows - len(groups):
        left = f"none of the {num_rows} rows" if wanted >= num_rows else "one of the classes without a row"
        raise DataError(f"{path}: dataset.validation_size leaves {left} to train on")
    shares = {name: wanted * len(members) / num_rows for name, members in groups.items()}
    counts = {name: min(int(share), len(groups[name]) - 1) for name, share in shares.items()}
    while sum(counts.values()) < wanted:  # the largest rest first
        open_groups = [name for name in sorted(counts) if counts[name] < len(groups[name]) - 1]
        counts[max(open_groups, key=lambda name: (shares[name] - counts[name], len(groups[name])))] += 1
    draw = random.Random(seed)  # noqa: S311 - no secret is drawn
    return {index for name in sorted(groups) for index in draw.sample(groups[name], counts[name])}


def _require_columns(there: Sequence[str], name: str, spec: ClassificationSet) -> None:
    needed = [*spec.text_columns, *([] if name.startswith("test") else [spec.label_column])]
    if there and (missing := [column for column in needed if column not in there]):
        raise DataError(
            f"{spec.path}, split {name}: no column {', '.join(missing)}; there are: {shorten_list(there)} "
            "(dataset.text_column and dataset.label_column choose)"
        )


def _check_values(row: dict[str, Any], columns: Iterable[str]) -> None:
    for column in columns:
        if isinstance(value := row.get(column), (list, dict)):
            raise RowError(f"column {column} holds {describe_kind(value)} instead of one text or label")
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise RowError(f"column {column} holds half a character (a lone surrogate)") from None
