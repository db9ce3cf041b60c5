"""Reads the rows of a split once: which are usable, which are bad and why, and hashes for finding equal rows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from utils.core.errors import DataError, UserError
from utils.core.texts import RowError, shorten_list
from utils.data.conversations import first_request
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.formats import explain_preference
from utils.data.rows import Rows

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NUM_SHOWN = 5


class DataProblems:
    """Collects independent problems of rows; `stop` raises them together."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Collect a DataError, skipping the rest of the block."""
        try:
            yield
        except DataError as error:
            self._sentences |= dict.fromkeys(str(error).splitlines())

    def stop(self) -> None:
        """Raise a DataError with a line for each problem, if there are any."""
        if self._sentences:
            raise DataError("\n".join(self._sentences))


class _WatchedRow(dict[str, Any]):
    """A row that records which of its columns are read."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:  # makes {**row} call __getitem__
        return super().__iter__()

    def list_unread(self) -> list[str]:
        """Return the non-empty columns that were not read."""
        return [key for key, value in self.items() if key not in self._read and value not in (None, "", [], {})]


@dataclass
class BadRows:
    """Number of unusable rows, and the first of them."""

    count: int = 0
    shown: list[str] = field(default_factory=list)
    """Location and reason of the first few."""

    def add(self, place: str, reason: object) -> None:
        """Count one row."""
        self.count += 1
        if len(self.shown) < _NUM_SHOWN:
            self.shown.append(f"{place}: {reason}")

    def stop(
        self, name: str, num_rows: int, on_bad_row: Literal["stop", "drop"] = "stop", *, can_drop: bool = True
    ) -> None:
        """Raise a DataError naming the first bad rows, if they may not be dropped or no good row is left."""
        if self.count and (on_bad_row == "stop" or self.count == num_rows):
            more = "".join(f"\n  {each}" for each in self.shown[1:])
            hint = "; fix them, or set dataset.on_bad_row: drop to leave them out"
            hint = hint if can_drop and self.count < num_rows else ""
            raise DataError(f"{self.shown[0]}\n{self.count} of {num_rows} rows of {name} cannot be used{hint}{more}")


def read_each(rows: Rows, read: Callable[[Row], T], bad: BadRows) -> Iterator[tuple[int, T]]:
    """Yield every good row with its index, adding the others to `bad`."""
    for index in range(len(rows)):
        try:
            yield index, read(rows[index])
        except RowError as error:
            bad.add(rows.place(index), error)
        except UnicodeEncodeError:
            bad.add(rows.place(index), "a text holds half a character (a lone surrogate)")


def require_columns(there: Sequence[str], needed: Iterable[str], where: str, keys: str) -> None:
    """Check that the first rows have the columns, before every row is reported; `keys` are the settings to change."""
    if there and (missing := [column for column in needed if column not in there]):
        raise DataError(f"{where}: no column {', '.join(missing)}; there are: {shorten_list(there)} ({keys} choose)")


@dataclass(frozen=True)
class ReadSplit:
    """A split whose rows have been checked; examples are read again when needed."""

    name: str
    rows: Rows
    spec: InstructionSet
    good: list[int]
    """Indices of the readable rows; the three lists below are parallel to it."""
    groups: list[bytes]
    """Hash of each row's group; a hold-out never splits a group."""
    prompts: list[bytes]
    """Hash of the prompt, a conversation's first request, or plain text."""
    contents: list[bytes]
    """Hash of everything that is encoded."""
    bad: BadRows
    unread: Counter[str] = field(default_factory=Counter)
    """Number of rows by unread column or key of turns."""

    def examples(self, positions: Iterable[int]) -> Iterator[Example]:
        """Read the examples at some positions of `good`."""
        return (self.spec.read_row(self.rows[self.good[position]]) for position in positions)

    def place(self, position: int) -> str:
        """Return the location of the row at a position of `good`."""
        return self.rows.place(self.good[position])

    def identify(self, positions: Iterable[int]) -> list[str]:
        """Return the own names of the rows at some positions of `good`, or [] if rows have none."""
        name = self.spec.identify
        return [] if name is None else [name(self.rows[self.good[position]]) for position in positions]

    def fingerprint(self, positions: Iterable[int]) -> str:
        """Hash the examples at some positions."""
        return hashlib.sha256(b"".join(self.contents[position] for position in positions)).hexdigest()


def read_split(name: str, rows: Rows, spec: InstructionSet, on_bad_row: Literal["stop", "drop"]) -> ReadSplit:
    """Read every row of a split of a resolved set once."""
    there, where = rows.column_names(), f"{spec.path}, split {name}"
    require_columns(there, spec.columns, where, "dataset.prompt_template, answer_column and messages_column")
    if not {"chosen", "rejected"} & set(spec.columns) and (problem := explain_preference(there)) is not None:
        raise DataError(f"{where}: {problem}")
    split = ReadSplit(name, rows, spec, [], [], [], [], BadRows())

    idle = {(column, value) for column, values in spec.choices.items() for value in values}

    def read(raw: Row) -> tuple[tuple[bytes, bytes, bytes], list[str]]:
        row = _WatchedRow(raw)
        if idle:
            idle.difference_update([(column, row.get(column)) for column in spec.choices])
        example = _require_texts(spec.read_row(row))
        marks = _mark_example(example, spec.group(row) if spec.group else None)
        return marks, row.list_unread() + [f"{key} of turns" for key in example.unread]

    for index, ((group, prompt, content), unread) in read_each(rows, read, split.bad):
        if unread:
            split.unread.update(unread)
        split.good.append(index)
        split.groups.append(group)
        split.prompts.append(prompt)
        split.contents.append(content)
    split.bad.stop(name, len(rows), on_bad_row)
    for column, value in sorted(idle) if name == "train" else ():
        logger.warning("dataset.prompt_template: no training row has %s %s; its prompt has no effect", column, value)
    if len(set(split.prompts)) == 1:  # if all rows have the same prompt, they are distinguished by their whole content
        split.prompts[:] = split.contents
        split.groups[:] = split.contents
    return split


def _require_texts(example: Any) -> Example:
    """Reject what a user's own dataset returns instead of an Example of texts."""
    if isinstance(example, Example) and isinstance(example.prompt, str) and isinstance(example.answer, str):
        return example
    raise UserError(f"dataset.name: read_row returned {example!r}; it needs an Example whose fields are texts")


def _mark_example(example: Example, group: str | None) -> tuple[bytes, bytes, bytes]:
    """Hash an example's group, prompt and content; the first two ignore whitespace differences."""
    if example.rejected is not None or example.is_good is not None:
        alone = _mark_example(replace(example, rejected=None, is_good=None), group)
        pair = "" if example.rejected is None else _mark_example(example.rejected, None)[-1].hex()
        return (*alone[:2], _mark(f"{alone[-1].hex()} {pair} {example.is_good}"))
    if example.messages:
        prompt = first_request(example.messages)
        content = json.dumps([example.messages, example.tools], ensure_ascii=False)
    else:
        prompt = example.prompt or example.answer
        # Newer fields are added only if set, so that earlier versions' fingerprints stay valid.
        content = "\x1f".join((example.prompt, example.answer, example.user_turn))
        if example.judged_by or example.context or example.plain:
            more = [example.judged_by, example.plain, example.prompt.find(example.context), len(example.context)]
            content += "\x1f" + json.dumps(more, ensure_ascii=False)
    prompt_mark = _mark(" ".join(prompt.split()))
    return prompt_mark if group is None else _mark(" ".join(group.split())), prompt_mark, _mark(content)


def _mark(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
