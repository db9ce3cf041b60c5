"""Reads a split once: which rows can be used, which are bad, and marks by which equal rows are found."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from utils.core.errors import DataError
from utils.core.texts import RowError, shorten_list
from utils.data.conversations import first_request
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.formats import find_preference
from utils.data.rows import Rows

_NUM_SHOWN = 5


class _WatchedRow(dict[str, Any]):
    """A row that knows which of its columns were read.

    Args:
        row: The row.
    """

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:  # makes {**row} go through __getitem__
        return super().__iter__()

    def list_unread(self) -> list[str]:
        """List the columns that hold something and were not read."""
        return [key for key, value in self.items() if key not in self._read and value not in (None, "", [], {})]


@dataclass
class BadRows:
    """Rows that cannot be used: how many, and the first of them."""

    count: int = 0
    shown: list[str] = field(default_factory=list)
    """Place and reason of the first few."""

    def add(self, place: str, reason: object) -> None:
        """Count one row."""
        self.count += 1
        if len(self.shown) < _NUM_SHOWN:
            self.shown.append(f"{place}: {reason}")


@dataclass(frozen=True)
class ReadSplit:
    """A split whose rows have been looked at; examples are read again when they are needed."""

    name: str
    rows: Rows
    spec: InstructionSet
    good: list[int]
    """Which rows can be read; the three lists below go with it."""
    groups: list[bytes]
    """Rows of equal mark never stand on both sides of a hold-out."""
    prompts: list[bytes]
    """Mark of the prompt, of a conversation's first request, or of plain text."""
    contents: list[bytes]
    """Mark of everything that is encoded."""
    bad: BadRows
    unread: Counter[str] = field(default_factory=Counter)
    """Columns, and keys of turns, that nothing reads, and how many rows have each."""

    def examples(self, positions: Iterable[int]) -> Iterator[Example]:
        """Read the examples at some positions of `good`."""
        return (self.spec.read_row(self.rows[self.good[position]]) for position in positions)

    def place(self, position: int) -> str:
        """Name the row at a position of `good`."""
        return self.rows.place(self.good[position])

    def identify(self, positions: Iterable[int]) -> list[str]:
        """Give the own names of the rows at some positions of `good`; nothing where rows have none."""
        name = self.spec.identify
        return [] if name is None else [name(self.rows[self.good[position]]) for position in positions]

    def fingerprint(self, positions: Iterable[int]) -> str:
        """Hash the examples at some positions."""
        return hashlib.sha256(b"".join(self.contents[position] for position in positions)).hexdigest()


def read_split(name: str, rows: Rows, spec: InstructionSet, on_bad_row: Literal["stop", "drop"]) -> ReadSplit:
    """Read every row of a split once.

    Args:
        name: What the split is called in messages.
        rows: The split.
        spec: Settled: it knows the rows' format.
        on_bad_row: Stop at rows that cannot be read, or leave them out.

    Raises:
        DataError: Rows cannot be read, with places and reasons; or none can.
    """
    _require_columns(name, rows, spec)
    split = ReadSplit(name, rows, spec, [], [], [], [], BadRows())
    for index in range(len(rows)):
        try:
            row = _WatchedRow(rows[index])
            example = spec.read_row(row)
            group = spec.group(row) if spec.group else None
            marks = _mark_example(example, group)
            split.unread.update([*row.list_unread(), *(f"{key} of turns" for key in example.unread)])
        except RowError as error:
            split.bad.add(rows.place(index), error)
        except UnicodeEncodeError:
            split.bad.add(rows.place(index), "a text holds half a character (a lone surrogate)")
        else:
            split.good.append(index)
            for marks_of_kind, mark in zip((split.groups, split.prompts, split.contents), marks, strict=True):
                marks_of_kind.append(mark)
    stop_at_bad_rows(split.bad, name, len(rows), on_bad_row)
    _tell_apart(split)
    return split


def _require_columns(name: str, rows: Rows, spec: InstructionSet) -> None:
    """Check that the first rows have the set's columns, before every row is called bad for it."""
    there = rows.column_names()
    missing = [column for column in spec.columns if column not in there]
    if there and missing:
        raise DataError(
            f"{spec.path}, split {name}: no column {', '.join(missing)}; there are: {shorten_list(there)} "
            "(dataset.prompt_template, answer_column and messages_column choose)"
        )
    if not {"chosen", "rejected"} & set(spec.columns) and (problem := find_preference(there)) is not None:
        raise DataError(f"{spec.path}, split {name}: {problem}")


def stop_at_bad_rows(
    bad: BadRows, name: str, num_rows: int, on_bad_row: Literal["stop", "drop"], *, can_drop: bool = True
) -> None:
    """Stop when rows are bad and that is not allowed, or when no row is good.

    Raises:
        DataError: Names the first bad rows.
    """
    if bad.count and (on_bad_row == "stop" or bad.count == num_rows):
        more = "".join(f"\n  {each}" for each in bad.shown[1:])
        hint = "; mend them, or set dataset.on_bad_row: drop to leave them out"
        hint = hint if can_drop and bad.count < num_rows else ""
        raise DataError(f"{bad.shown[0]}\n{bad.count} of {num_rows} rows of {name} cannot be used{hint}{more}")


def _mark_example(example: Example, group: str | None) -> tuple[bytes, bytes, bytes]:
    """Hash an example's group, prompt and content; spaces and line breaks make no difference to the first two."""
    if example.messages:
        prompt = first_request(example.messages)
        content = json.dumps([example.messages, example.tools], ensure_ascii=False)
    else:
        prompt = example.prompt or example.answer
        content = "\x1f".join((example.prompt, example.answer, example.user_turn))
        if example.judged_by or example.context or example.plain:
            more = [example.judged_by, example.plain, example.prompt.find(example.context), len(example.context)]
            content += "\x1f" + json.dumps(more, ensure_ascii=False)
    prompt_mark = _mark(" ".join(prompt.split()))
    return prompt_mark if group is None else _mark(" ".join(group.split())), prompt_mark, _mark(content)


def _mark(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _tell_apart(split: ReadSplit) -> None:
    """Let rows that all have the same prompt be told apart by their whole content."""
    if len(set(split.prompts)) == 1:
        split.prompts[:] = split.contents
        split.groups[:] = split.contents
