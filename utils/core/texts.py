"""Reads texts from rows, one column or a prompt built from several, and parses the names of splits."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FILE_KINDS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes of files that rows are read from."""
_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\])?")
_KINDS: dict[type, str] = {
    type(None): "nothing (null)",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


class RowError(ValueError):
    """A problem with one row, without its location."""


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt over columns: `Question: {question}`; `{{` and `}}` are braces."""

    parts: tuple[tuple[str, str | None], ...]
    """Literal texts, each followed by a column or None."""

    @classmethod
    def parse(cls, template: str) -> PromptTemplate:
        """Parse a template.

        Raises:
            ValueError: A brace is unbalanced, or braces do not contain a column name.
        """
        hint = "; write {{ and }} for braces of the text itself"
        try:
            parts = tuple(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"{error}{hint}") from error
        for _, column, spec, conversion in parts:
            if column == "" or spec or conversion:
                shown = (column or "") + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise ValueError(f"{{{shown}}} is not one column's name in braces{hint}")
        return cls(tuple((literal, column) for literal, column, _, _ in parts))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the prompt needs, each once."""
        return tuple(dict.fromkeys(column for _, column in self.parts if column is not None))

    def render(self, row: Mapping[str, Any]) -> str:
        """Fill in a row's values; whole numbers are written in digits.

        Raises:
            RowError: A column is missing or is not text.
        """
        return "".join(literal + ("" if column is None else _read_word(row, column)) for literal, column in self.parts)


def require_columns(template: str) -> str:
    """Return a prompt template unchanged if it is valid and names a column.

    Raises:
        ValueError: It is invalid or names no column.
    """
    if not PromptTemplate.parse(template).columns:
        raise ValueError("names no column in braces, so every prompt would be the same; write {question}, for example")
    return template


def read_text(row: Mapping[str, Any], column: str) -> str:
    """Read a column's text.

    Raises:
        RowError: There is no such column, or its value is not text.
    """
    if column not in row:
        raise RowError(f"no column {column}; there are: {shorten_list(row)}")
    value = row[column]
    if not isinstance(value, str):
        raise RowError(f"column {column} holds {describe_kind(value)} instead of a text")
    return value


def describe_kind(value: Any) -> str:
    """Describe the type of a value that should have been text."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def shorten(value: object, most: int = 80) -> str:
    """Convert a value to a string, truncated if it is very long."""
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."


def shorten_list(names: Iterable[object], most: int = 20) -> str:
    """Join names with commas, truncating long names and a long list."""
    shown = [shorten(name, 200) for name in names]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest if shown else "none"


def list_texts(value: Any) -> Iterator[str]:
    """Yield the strings in nested lists and objects, such as turns or tools."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from list_texts(each)


def join_answer(prompt: str, answer: str) -> str:
    """Put a space before an answer that would run into the last word of its prompt."""
    touching = bool(prompt) and not prompt[-1].isspace() and not answer[:1].isspace()
    return f" {answer}" if touching else answer


def parse_split(split: str) -> tuple[str, str | None, str | None]:
    """Split `train[10%:20%]` into the name and the first and last bounds as written.

    Raises:
        ValueError: It does not have this form.
    """
    found = _SPLIT.fullmatch(split.strip())
    if found is None:
        raise ValueError(f"{split} is not a split; write train, train[:5000], train[-100:] or train[10%:20%]")
    return found["name"].strip(), found["first"], found["last"]


def cut_range(num_rows: int, first: str | None, last: str | None) -> range:
    """Return the rows within a split's bounds, counted like the datasets library does.

    A bound is `100`, `-100` (from the end), `10%` (rounded to the closest row) or None; the last is exclusive.
    """

    def count(bound: str) -> int:
        if bound.endswith("%"):
            return round(num_rows * int(bound[:-1]) / 100)
        return int(bound)

    return range(num_rows)[slice(count(first) if first else None, count(last) if last else None)]


def _read_word(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else read_text(row, column)
