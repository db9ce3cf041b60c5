"""Reads a classification or regression dataset, without a tokenizer: its splits, classes and validation rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from utils.config.sections.dataset import ClassificationSection
from utils.core.errors import DataError
from utils.core.texts import RowError, describe_kind
from utils.data.dataset import ClassificationSet, Row
from utils.data.labels import LabelCoder, Reorder, build_label_coder, type_labels, warn_of_similar_labels
from utils.data.reading import BadRows, DataProblems, read_each, require_columns
from utils.data.rows import Rows
from utils.data.splits import hold_out, open_split, open_train, open_validation

logger = logging.getLogger(__name__)

_ID_COLUMNS = ("index", "id", "idx")


@dataclass(frozen=True)
class LabelledRows:
    """The readable rows of a split."""

    name: str
    """`train`, `eval` + suffix, `test` + submission."""
    rows: Rows
    """All rows of the split."""
    positions: list[int]
    """Positions of the readable rows; the lists below are parallel to it."""
    texts: dict[str, list[Any]]
    """Texts by column."""
    labels: list[Any]
    """Labels as in the data; empty if there are none."""
    ids: list[Any]
    """The rows' own numbers or names, known to a benchmark's server; empty if there are none."""
    bad: BadRows = field(default_factory=BadRows)
    """The unreadable rows."""
    codes: list[int | float] | None = None
    """Labels as the model learns them; None: not encoded yet."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def is_test(self) -> bool:
        """Whether the labels are known only to a benchmark's server."""
        return self.name.startswith("test")

    def place(self, index: int) -> str:
        """Return a row's location."""
        return self.rows.place(self.positions[index])

    def select(self, indices: Iterable[int]) -> LabelledRows:
        """Select some of the rows."""
        chosen = list(indices)

        def take(values: list[Any]) -> list[Any]:
            return [values[index] for index in chosen] if values else []

        return replace(
            self,
            positions=take(self.positions),
            texts={column: take(values) for column, values in self.texts.items()},
            labels=take(self.labels),
            ids=take(self.ids),
            codes=None if self.codes is None else take(self.codes),
        )

    def encode(self, coder: LabelCoder) -> LabelledRows:
        """Encode the labels; rows without a usable label become bad rows."""
        kept, codes = [], []
        for index, label in enumerate(self.labels):
            try:
                codes.append(coder.encode(label))
                kept.append(index)
            except RowError as error:
                self.bad.add(self.place(index), error)
        return replace(self.select(kept), codes=codes)


@dataclass(frozen=True)
class LabelledSet:
    """A dataset that has been read."""

    coder: LabelCoder
    splits: dict[str, LabelledRows]
    """By use, with encoded labels, held-out rows included: `train`, `eval` + suffix, `test` + submission."""
    commit: str | None


def read_classification(
    spec: ClassificationSet, section: ClassificationSection, seed: int, reorder: Reorder = tuple
) -> LabelledSet:
    """Read a dataset and encode its labels, raising one DataError for all problems with columns, splits and labels."""
    found = DataProblems()
    read = _read_splits(spec, found)
    if (spec.train_split is not None and "train" not in read) or all(rows.is_test for rows in read.values()):
        found.stop()  # the classes cannot be inferred from these rows alone
    with found.gather():
        coder = _build_coder(spec, read, reorder)
        encoded = _encode_labels(read, coder, section, found)
    found.stop()
    commit = next((rows.rows.commit for rows in read.values() if not rows.is_test), None)
    return LabelledSet(coder, _hold_out_rows(encoded, spec, coder, seed), commit)


def _read_splits(spec: ClassificationSet, found: DataProblems) -> dict[str, LabelledRows]:
    """Read every split that exists."""
    read: dict[str, LabelledRows] = {}
    absent: set[str] = set()
    for name, opened in _open_splits(spec):
        with found.gather():
            if (split := opened()) is None:
                absent.add(name)
            else:
                read[name] = _read_split(name, split, spec, found)
    with found.gather():
        _require_evaluation(spec, absent)
    if "train" in read and "eval" in read and spec.validation_size:
        logger.warning("dataset.validation_size has no effect: the set has a validation split")
    read |= _read_tests(spec)
    untyped = {name: rows for name, rows in read.items() if not rows.rows.is_typed}
    as_label = type_labels(rows.labels for rows in untyped.values())
    return read | {name: replace(rows, labels=list(map(as_label, rows.labels))) for name, rows in untyped.items()}


def _open_splits(spec: ClassificationSet) -> Iterator[tuple[str, Callable[[], Rows | None]]]:
    if spec.train_split is not None:
        yield "train", partial(open_train, spec)
    for suffix, name in spec.eval_splits.items():
        yield f"eval{suffix}", partial(open_validation, spec, name)


def _read_split(name: str, rows: Rows, spec: ClassificationSet, found: DataProblems) -> LabelledRows:
    """Read a split; if it lacks a text column, its labels are still read, to be checked with the others."""
    there = rows.column_names()
    texts = tuple(column for column in spec.text_columns if column in there)
    if len(texts) < len(spec.text_columns) and spec.label_column in there and len(rows):
        with found.gather():
            _read_rows(name, rows, spec)
        spec = replace(spec, text_columns=texts)
    read = _read_rows(name, rows, spec)
    if not len(read):
        read.bad.stop(name, len(rows))
    return read


def _read_rows(name: str, rows: Rows, spec: ClassificationSet) -> LabelledRows:
    if len(rows) == 0:
        raise DataError(f"{spec.path}: the split {name} is empty")
    read = LabelledRows(name, rows, [], {column: [] for column in spec.text_columns}, [], [])
    there, columns = rows.column_names(), (*spec.text_columns, spec.label_column)
    needed = spec.text_columns if read.is_test else columns
    require_columns(there, needed, f"{spec.path}, split {name}", "dataset.text_column and dataset.label_column")
    id_column = next((column for column in _ID_COLUMNS if column in there), None) if read.is_test else None
    for index, row in read_each(rows, partial(_require_values, columns=columns), read.bad):
        read.positions.append(index)
        for column, values in read.texts.items():
            values.append(row.get(column))
        if spec.label_column in there:
            read.labels.append(row.get(spec.label_column))
        if id_column is not None:
            read.ids.append(row.get(id_column))
    return read


def _require_values(row: Row, columns: Sequence[str]) -> Row:
    """Return a row unchanged if each column holds a single text or label."""
    for column in columns:
        if isinstance(value := row.get(column), (list, dict)):
            raise RowError(f"column {column} holds {describe_kind(value)} instead of one text or label")
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise RowError(f"column {column} holds half a character (a lone surrogate)") from None
    return row


def _read_tests(spec: ClassificationSet) -> dict[str, LabelledRows]:
    """Read the test splits; without one, or with a broken one, there is no submission."""
    read: dict[str, LabelledRows] = {}
    for each in spec.submissions:
        try:
            if (opened := open_split(spec, each.split, each.subset)) is None:
                continue
            rows = _read_rows(f"test {each.file}", opened, spec)
            # The server counts the rows: each must be present, with a unique number.
            rows.bad.stop(rows.name, len(opened), can_drop=False)
            if len(set(rows.ids)) < len(rows.ids):
                raise DataError(f"{rows.place(0)} and further: rows of {rows.name} have the same number")
            read[rows.name] = rows
        except DataError as error:
            logger.warning("no predictions for %s: %s", each.file, error)
    return read


def _encode_labels(
    read: dict[str, LabelledRows], coder: LabelCoder, section: ClassificationSection, found: DataProblems
) -> dict[str, LabelledRows]:
    encoded = dict(read)
    for name, rows in read.items():
        if not rows.is_test:
            encoded[name] = rows.encode(coder)
            with found.gather():
                encoded[name].bad.stop(name, len(rows.rows), section.on_bad_row)
    return encoded


def _build_coder(spec: ClassificationSet, read: dict[str, LabelledRows], reorder: Reorder) -> LabelCoder:
    """Determine the classes from all training rows, including held-out ones, or else from the evaluation rows."""
    labelled = [rows for rows in read.values() if not rows.is_test]
    if not labelled and not spec.label_names:
        raise DataError(f"{spec.path}: there are only unlabelled rows, and the classes are not known")
    if not labelled:
        order = reorder(dict.fromkeys(spec.label_names or (), spec.path))
        return LabelCoder(order, {index: order.index(name) for index, name in enumerate(spec.label_names or ())})
    chosen = [read["train"]] if "train" in read else labelled
    places: dict[Any, str] = {}
    for rows in chosen:
        for index, label in enumerate(rows.labels):
            if label not in places:
                places[label] = rows.place(index)
    if spec.label_names is None:
        warn_of_similar_labels(spec.label_column, places)
    return build_label_coder(spec, places, chosen[0].rows.class_names(spec.label_column), reorder)


def _require_evaluation(spec: ClassificationSet, absent: set[str]) -> None:
    """Check that there are rows to evaluate on, or that some will be held out."""
    if {f"eval{suffix}" for suffix in spec.eval_splits} - absent or (spec.train_split and spec.validation_size):
        return
    name = next(iter(spec.eval_splits.values()), "validation")
    if spec.train_split is None and spec.submissions:
        return  # its test rows can be predicted
    if spec.train_split is None:
        raise DataError(f"{spec.path}: no split called {name}; name one that it has, or leave the split out")
    raise DataError(
        f"{spec.path}: no split called {name}; add one, name a file by dataset.validation_path, or hold rows out by "
        "dataset.validation_size"
    )


def _hold_out_rows(
    encoded: dict[str, LabelledRows], spec: ClassificationSet, coder: LabelCoder, seed: int
) -> dict[str, LabelledRows]:
    """Hold rows out if there is no evaluation split."""
    if "train" not in encoded or any(name.startswith("eval") for name in encoded):
        return encoded
    train = encoded["train"]
    assert spec.validation_size, "it was looked for"
    classes: Sequence[str] = () if coder.is_regression else list(map(str, train.labels))
    held_out = hold_out(len(train), spec.validation_size, seed, spec.path, classes)
    chosen = set(held_out)
    return {
        "train": train.select(index for index in range(len(train)) if index not in chosen),
        "eval": replace(train.select(held_out), name="eval", bad=BadRows()),
        **{name: rows for name, rows in encoded.items() if name != "train"},
    }
