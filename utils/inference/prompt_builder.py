"""Questions to a model: a row's texts or its prompt, determined before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from utils.core.errors import DataError, UserError
from utils.core.texts import RowError, describe_kind, read_text, shorten_list
from utils.data.conversations import open_chat, read_conversation
from utils.data.dataset import ClassificationSet, Example, InstructionSet, Row
from utils.data.preference import as_scored

_MESSAGES = "messages"
_REQUESTS = ("prompt", "text")
"""Columns for a bare request, whatever the run's names are."""


@dataclass(frozen=True)
class TextPromptBuilder:
    """Reads the one or two texts of a row for a classifier."""

    columns: tuple[str, ...]
    other_names: Mapping[str, str] = field(default_factory=dict)
    """Alternative names of columns in the dataset's own files."""
    keys = frozenset({"label", "value", "probabilities", "truncated"})

    @property
    def text_column(self) -> str:
        """The first column."""
        return self.columns[0]

    def read(self, row: Row) -> tuple[str, ...]:
        """Return the texts of a row; numbers become text. A row without them raises a RowError."""
        if problem := self.find_missing(key for key, value in row.items() if value is not None):
            raise RowError(problem)
        texts = tuple(_as_text(row, name) for name in self._name_columns(row))
        if all(map(_is_blank, texts)):
            raise RowError("has no text")
        return texts

    def lay_out(self, texts: Sequence[str]) -> list[Row]:
        """Make rows, one text per column."""
        return _lay_out(self.columns, texts)

    def find_missing(self, columns: Iterable[str]) -> str | None:
        """Return a message about missing columns and those that exist; None if none is missing."""
        there = list(columns)
        return _explain_missing(self._name_columns(there), there)

    def _name_columns(self, there: Iterable[str]) -> list[str]:
        """Return the columns by their names in the input."""
        known = set(there)
        others = {ours: name for name, ours in self.other_names.items() if name in known}
        return [column if column in known else others.get(column, column) for column in self.columns]


@dataclass(frozen=True)
class ChatPromptBuilder:
    """Reads a row for a language model: the prompt as in training, or a bare request put into it, or a conversation."""

    columns: tuple[str, ...]
    """Columns of the prompt."""
    read_prompt: Callable[[Row], Example]
    ask: Callable[[str], Example] | None
    """Makes the prompt of a bare request; None: it needs more than one text."""
    text_column: str
    stop: tuple[str, ...] = ()
    """Strings that end an answer."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Columns read instead of the run's: pairs of the run's name and the row's."""
    request_column: str | None = None
    """The column that the user chose for a run on conversations: a bare request, or turns."""
    official_truncation: bool = False
    """Whether too long prompts lose their middle, as in the evaluation of the run's set."""
    chat_exempt: bool = False
    """Whether the chat template is never applied, as in the evaluation of the run's set."""
    keys = frozenset({"answer", "finished", "num_tokens", "truncated"})

    def read(self, row: Row) -> Example:
        """Return the prompt of a row; a row without one raises a RowError."""
        if self.request_column is not None:
            return self._check(self._read_chosen(row, self.request_column))
        if self.renamed:
            if problem := _explain_missing([there for _, there in self.renamed], list(row)):
                raise RowError(problem)
            row = {**row, **{own: row[there] for own, there in self.renamed}}
        # The run's own columns come first: its rows may also have a column `text` or `messages`.
        if self.columns and all(column in row for column in self.columns):
            return self._check(self.read_prompt(_require_text(row, self.columns)))
        if _MESSAGES in row:
            return self._check(open_chat(read_conversation(row, _MESSAGES)))
        for column in _REQUESTS if self.ask else ():
            if column in row:
                return self._check(self._ask(row, column))
        raise RowError(self.find_missing(row) or "nothing is asked")

    def lay_out(self, texts: Sequence[str]) -> list[Row]:
        """Make rows: one request each, or one text per column."""
        return _lay_out((self.text_column,) if self.ask else self.columns, texts)

    def find_missing(self, columns: Iterable[str]) -> str | None:
        """Return a message about missing columns, those that exist, and alternatives; None if none is missing."""
        there = list(columns)
        if self.request_column is not None:
            return _explain_missing((self.request_column,), there)
        needed = [dict(self.renamed).get(column, column) for column in self.columns]
        if any(column in there for column in (_MESSAGES, *(_REQUESTS if self.ask else ()))) and not self.renamed:
            return None
        problem = _explain_missing(needed or _REQUESTS[-1:], there)
        others = [name for name in ((*_REQUESTS, _MESSAGES) if self.ask else (_MESSAGES,)) if name not in needed]
        return None if problem is None else f"{problem} (instead, a column {' or '.join(others)} would do)"

    def _read_chosen(self, row: Row, column: str) -> Example:
        if problem := self.find_missing(row):
            raise RowError(problem)
        if isinstance(row[column], list) and len(self.columns) == 1:
            return self.read_prompt({**row, self.columns[0]: row[column]})
        return self._ask(row, column)

    def _ask(self, row: Row, column: str) -> Example:
        assert self.ask is not None, "checked before"
        if isinstance(row[column], list):
            return open_chat(read_conversation(row, column))
        return self.ask(read_text(_require_text(row, (column,)), column))

    @staticmethod
    def _check(example: Example) -> Example:
        for text in (example.prompt, *(turn["content"] for turn in example.messages)):
            _check_text(text, "the prompt")
        return example


@dataclass(frozen=True)
class RewardPromptBuilder:
    """Reads a row for a reward model: a prompt with an answer, a conversation that ends with one, or a pair."""

    columns: tuple[str, ...]
    """Columns of the prompt, and the column of the answer."""
    read_row: Callable[[Row], Example]
    renamed: tuple[tuple[str, str], ...] = ()
    """As in ChatPromptBuilder."""
    keys = frozenset({"reward", "reward_chosen", "reward_rejected", "truncated"})

    @property
    def text_column(self) -> str:
        """The first column."""
        return self.columns[0]

    def read(self, row: Row) -> Example:
        """Return the prompt of a row with its answer, or with both; a row without one raises a RowError."""
        if problem := _explain_missing([there for _, there in self.renamed], list(row)):
            raise RowError(problem)
        example = self.read_row({**row, **{own: row[there] for own, there in self.renamed}})
        _check_text(example.whole_text, "the text")
        return example

    def lay_out(self, texts: Sequence[str]) -> list[Row]:
        """Make rows of a prompt and an answer."""
        return _lay_out(self.columns, texts)

    def find_missing(self, columns: Iterable[str]) -> str | None:
        """Return None: rows may have one of several shapes, and are checked one by one."""
        return None


PromptBuilder: TypeAlias = TextPromptBuilder | ChatPromptBuilder | RewardPromptBuilder


def build_text_prompt_builder(described: ClassificationSet | None, chosen: Sequence[str]) -> TextPromptBuilder:
    """Build the prompt builder of a classifier.

    `described` is None for a model without a run, which reads `text`; `chosen` columns are read instead of the run's.
    """
    own = described.text_columns if described is not None else tuple(chosen) or ("text",)
    if chosen and len(chosen) != len(own):
        raise UserError(f"--text_column: the run reads {len(own)} columns ({', '.join(own)}); name as many")
    return TextPromptBuilder(
        tuple(chosen) or own, described.form.renamed if described is not None and not chosen else {}
    )


def build_chat_prompt_builder(
    described: InstructionSet | None, chosen: Sequence[str], there: Sequence[str], conversational: bool | None = None
) -> ChatPromptBuilder:
    """Build the prompt builder of a language model.

    `described` is None for a model without a run, which gets bare texts; `chosen` columns are read instead of the
    run's. `there`, the columns of the first row, determine an unstated format if the dataset is gone. `conversational`
    is whether the training rows are conversations; None: unknown.
    """
    if described is None:
        if len(chosen) > 1:
            raise UserError("--text_column: a model without a run reads one column; name one")
        column = chosen[0] if chosen else "text"
        return ChatPromptBuilder((column,), lambda row: _plain(read_text(row, column)), _plain, column)
    spec = resolve(described, there, conversational)
    columns, read_prompt = spec.prompt_columns, spec.read_prompt
    assert read_prompt is not None, f"{spec.path} is resolved"
    if chosen and len(chosen) != len(columns):
        raise UserError(f"--text_column: the run reads {len(columns)} columns ({', '.join(columns)}); name as many")
    ask = spec.ask
    if ask is None and len(columns) == 1:
        ask = lambda text: read_prompt({columns[0]: text})  # noqa: E731  typed by the field it fills
    is_chat = ask is not None and bool(ask("a").messages)
    text_column = chosen[0] if chosen else "text" if is_chat or not columns else columns[0]
    renamed = tuple(zip(columns, chosen, strict=True)) if chosen and not is_chat else ()
    request_column = chosen[0] if chosen and is_chat else None
    return ChatPromptBuilder(
        columns,
        read_prompt,
        ask,
        text_column,
        spec.stop,
        renamed,
        request_column,
        official_truncation=spec.official_truncation,
        chat_exempt=spec.chat_exempt,
    )


def build_reward_prompt_builder(
    described: InstructionSet,
    roles: Mapping[str, str],
    conversational: bool | None,
    chosen: Sequence[str],
    there: Sequence[str],
) -> RewardPromptBuilder:
    """Build the prompt builder of a reward model; `roles` and `conversational` as in `as_scored`, else as above."""
    spec = resolve(as_scored(described, roles, conversational), there)
    if chosen and len(chosen) != len(spec.columns):
        names = ", ".join(spec.columns)
        raise UserError(f"--text_column: the run reads {len(spec.columns)} columns ({names}); name as many")
    return RewardPromptBuilder(spec.columns, spec.read_row, tuple(zip(spec.columns, chosen, strict=False)))


def resolve(spec: InstructionSet, there: Sequence[str], conversational: bool | None = None) -> InstructionSet:
    """Complete a dataset's format from its own rows or, if they are gone, from the columns of the input.

    Preference rows do not tell how to treat a bare request: after conversations, it is a user's turn.
    """
    from utils.data.instruction import resolve_set

    if spec.resolve is None:
        return spec
    try:
        return resolve_set(spec)
    except DataError:
        if spec.resolve_prompt is None:
            raise
    is_bare = not {_MESSAGES, "conversations"} & set(there)
    return spec.resolve_prompt(spec, (_MESSAGES,) if conversational and is_bare else there)


def _plain(text: str) -> Example:
    return Example(text, question=text)


def _lay_out(columns: tuple[str, ...], texts: Sequence[str]) -> list[Row]:
    width = len(columns)
    if len(texts) % width:
        names = ", ".join(columns)
        raise UserError(f"the run reads {width} texts per row ({names}); give --input_text {width} times for each row")
    return [dict(zip(columns, texts[at : at + width], strict=True)) for at in range(0, len(texts), width)]


def _explain_missing(needed: Iterable[str], there: Sequence[str]) -> str | None:
    missing = [column for column in needed if column not in there]
    return f"no column {', '.join(missing)}; there are: {shorten_list(there)}" if missing else None


def _require_text(row: Row, columns: Iterable[str]) -> Row:
    if all(_is_blank(row[column]) for column in columns):
        raise RowError("has no text")
    return row


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _as_text(row: Row, column: str) -> str:
    value = row[column]
    if isinstance(value, dict | list):
        raise RowError(f"column {column} holds {describe_kind(value)} instead of a text")
    return _check_text(str(value), f"column {column}")


def _check_text(text: str, where: str) -> str:
    if "\0" in text:
        raise RowError(f"{where} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(f"{where} holds half a character (a lone surrogate)") from None
    return text
