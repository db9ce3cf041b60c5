"""Rows with their locations, read one by one if possible, so that a bad row can be named or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from utils.core.errors import DataError
from utils.core.library_errors import explain_library
from utils.core.texts import FILE_KINDS, RowError, cut_range, parse_split
from utils.data.row_files import AS_NAMED, FileFormat, FileTable, Row, is_stream, spool
from utils.data.sources import Source, find_files, load_parquet, load_split, resolved_commit

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000
_NUM_LOOKED_AT = 100


class Table(Protocol):
    """The rows of one file or split."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Row:
        """Read a row; raises a RowError if that is impossible."""

    def place(self, index: int) -> str:
        """Return a row's location for messages."""


class DatasetTable:
    """Rows of the datasets library, fetched in blocks; a row's location is `label` and its number, from 0."""

    def __init__(self, dataset: Dataset, label: str) -> None:
        self._dataset, self._label = dataset, label
        self._first = 0
        self._block: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> Row:
        """Read a row."""
        if not self._block or not self._first <= index < self._first + _BATCH:
            self._first = index - index % _BATCH
            with explain_library(self._explain_damage):
                self._block = self._dataset[self._first : self._first + _BATCH]
        return {column: drop_nulls(values[index - self._first]) for column, values in self._block.items()}

    def _explain_damage(self, line: str) -> DataError:
        return DataError(
            f"{self._label}: behind row {self._first} a value cannot be read ({line}); copy the file again"
        )

    def place(self, index: int) -> str:
        """Return a row's location."""
        return f"{self._label}, row {index}"

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Return the class names of a column from its type, if any."""
        names = getattr(self._dataset.features.get(column), "names", None)
        return tuple(names) if names else None


@dataclass(frozen=True)
class DerivedTable:
    """Rows derived from the rows of another table."""

    table: Table
    origins: Sequence[int]
    """Index of the row that each row is derived from."""
    change: Callable[[int, Row], Row]
    """Builds the row with this index from the original row."""
    describe: Callable[[int], str] = lambda _: ""
    """Returns a suffix for the original row's location."""

    def __len__(self) -> int:
        return len(self.origins)

    def read(self, index: int) -> Row:
        """Read a row."""
        return self.change(index, self.table.read(self.origins[index]))

    def place(self, index: int) -> str:
        """Return a row's location."""
        return self.table.place(self.origins[index]) + self.describe(index)


@dataclass(frozen=True)
class Rows:
    """A sequence of rows: one or more tables concatenated, and sliced as a split says."""

    tables: tuple[Table, ...]
    indices: Sequence[int]
    """Indices into all tables together."""
    commit: str | None = None
    """Resolved commit of a hub dataset."""

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Row:
        """Read a row."""
        table, inner = self._find(index)
        return table.read(inner)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def place(self, index: int) -> str:
        """Return a row's location: `rows.jsonl:317` (lines from 1), or `openai/gsm8k train, row 316` (rows from 0)."""
        table, inner = self._find(index)
        return table.place(inner)

    @property
    def is_typed(self) -> bool:
        """Whether values have types; otherwise all are strings."""
        return not any(isinstance(table, FileTable) and not table.is_typed for table in self.tables)

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Return the class names of a column from its type, or None."""
        table = self.tables[0]
        return table.class_names(column) if isinstance(table, DatasetTable) else None

    def column_names(self) -> tuple[str, ...]:
        """Return the columns of the first readable rows.

        Raises:
            DataError: None of the first rows can be read.
        """
        names: dict[str, None] = {}
        first: RowError | None = None
        for index in range(min(_NUM_LOOKED_AT, len(self))):
            try:
                names |= dict.fromkeys(self[index])
            except RowError as error:
                first = first or error
        if not names and first is not None:
            raise DataError(f"{self.place(0)}: {first}") from first
        return tuple(names)

    def _find(self, index: int) -> tuple[Table, int]:
        row = self.indices[index]
        if len(self.tables) == 1:
            return self.tables[0], row
        for table in self.tables:
            if row < len(table):
                break
            row -= len(table)
        return table, row


def open_rows(source: Source, split: str) -> Rows | None:
    """Open the rows of a split or a slice of it (`train[:5000]`), or return None if there is no such split."""
    name = name_split(source.path, split)
    if files := find_files(source, name):
        return cut_rows(join_tables([open_table(file, source.form) for file in files]), split)
    if (dataset := load_split(source, name)) is None:
        return None
    table = DatasetTable(dataset, f"{source.path} {name}")
    return cut_rows(join_tables((table,), resolved_commit(dataset)), split)


def open_table(file: Path, form: FileFormat = AS_NAMED) -> Table:
    """Open the rows of one file or pipe, which is read once.

    The kind is the format's, else the suffix; for a pipe without one, it is detected from the rows.
    """
    kind = form.kind or file.suffix.lower()
    if kind not in FILE_KINDS and not (kind == "" and is_stream(file)):
        raise DataError(f"{file}: unknown kind of file; use one of {', '.join(FILE_KINDS)}")
    if kind == ".parquet":
        return DatasetTable(load_parquet(spool(file), str(file)), str(file))
    table = FileTable(spool(file), replace(form, kind=kind), str(file))
    if not kind and table.kind == ".txt":
        raise DataError(f"{file}: a pipe without a suffix holds JSON; give it a name that ends in .csv, .tsv or .txt")
    return table


def name_split(path: str, split: str) -> str:
    """Return a split's name without its slice."""
    try:
        return parse_split(split)[0]
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def drop_nulls(value: Any) -> Any:
    """Drop nulls that Arrow adds: every object in a column gets the keys of all others, with null values."""
    if isinstance(value, dict):
        return {key: drop_nulls(each) for key, each in value.items() if each is not None}
    return [drop_nulls(each) for each in value] if isinstance(value, list) else value


def join_tables(tables: Sequence[Table], commit: str | None = None) -> Rows:
    """Concatenate tables, at least one."""
    return Rows(tuple(tables), range(sum(len(table) for table in tables)), commit)


def cut_rows(rows: Rows, split: str) -> Rows:
    """Slice rows as a split such as `test[:100]` says; its name is ignored."""
    _, first, last = parse_split(split)
    kept = cut_range(len(rows), first, last)
    if not kept:
        raise DataError(f"{rows.tables[0].place(0)} and further: the split {split} leaves none of {len(rows)} rows")
    return replace(rows, indices=rows.indices[kept.start : kept.stop])


def open_file(path: str, form: FileFormat = AS_NAMED) -> Rows:
    """Open the rows of one file."""
    file = Path(path).expanduser()
    if not file.exists():
        raise DataError(f"{path}: no such file; paths start at the working directory")
    if file.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    return join_tables([open_table(file, form)])
