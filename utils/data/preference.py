"""Preference rows: pairs of a chosen and a rejected answer, and answers labelled good or bad.

Either works with any prompt that a dataset reads. A pair is {"prompt", "chosen", "rejected"}, where the prompt is in
the dataset's own form (a text, turns, a template's columns, an instruction) and the answers are texts or turns; or
{"chosen", "rejected"} alone as whole conversations, whose common beginning is the prompt.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from utils.core.errors import DataError
from utils.core.texts import RowError, describe_kind, join_answer
from utils.data.conversations import Conversation, as_context, build_chat, read_conversation
from utils.data.dataset import Example, InstructionSet, Row, Turn
from utils.data.formats import ANSWER_COLUMNS, find_answer_column

SIDES = ("chosen", "rejected")
_LABELS = ("label", "kto_tag")
_PROMPTS = ("prompt", "messages", "conversations", "instruction")
"""Columns of prompts; the first one present counts if rows have several (UltraFeedback)."""

_CONVERSATIONS = ("messages", "conversations")

_Complete = Callable[[InstructionSet, Sequence[str]], InstructionSet]


def as_pairs(spec: InstructionSet, roles: Mapping[str, str], *, margins: bool = False) -> InstructionSet:
    """Make a dataset's rows pairs of answers to its prompts; `roles` as in `read_conversation`.

    `margins` reads a column `margin` with how much better the chosen answer is; 0 if it is missing.
    """
    return _when_resolved(spec, lambda known, _: _read_pairs(known, roles, margins))


def as_scored(spec: InstructionSet, roles: Mapping[str, str], conversational: bool | None) -> InstructionSet:
    """Make a dataset's rows answers to be scored: pairs, one answer to a prompt, or conversations ending with one.

    A single answer is in the column answer, completion, output or response. `conversational` says whether the model was
    trained on conversations, so that a text in the column `prompt` is a user turn; None: unknown.
    """
    found = _when_resolved(spec, lambda known, _: _read_scored(known, roles, conversational))
    return replace(found, resolve_prompt=found.resolve)  # for when the training rows are no longer available


def as_labelled(spec: InstructionSet) -> InstructionSet:
    """Make a dataset's rows answers labelled good or bad; in a conversation, the label is the last answer's."""
    return _when_resolved(spec, _read_labelled, answered=True)


def _when_resolved(spec: InstructionSet, complete: _Complete, *, answered: bool = False) -> InstructionSet:
    """Complete a set now, or once the columns of its rows are known."""
    how = spec.resolve if answered else spec.resolve_prompt

    def resolve(own: InstructionSet, there: Sequence[str]) -> InstructionSet:
        if how is None:
            return complete(own, there)
        # With several columns of prompts, pass on only the first, or the format would be ambiguous.
        first = next((name for name in _PROMPTS if name in there), None)
        others = () if first is None else {*_PROMPTS, "text"} - {first}
        try:
            return complete(how(own, [name for name in there if name not in others]), there)
        except DataError:
            if first is not None or answered:
                raise
            # No prompt column: whole conversations need none, and other rows are rejected one by one.
            return complete(replace(own, read_prompt=_refuse_prompt, prompt_columns=(), resolve=None), there)

    return replace(spec, resolve=resolve, resolve_prompt=None)


def _refuse_prompt(row: Row) -> Example:
    raise RowError(f"there is no prompt: no column {', '.join(_PROMPTS)}, and chosen is no whole conversation")


def _read_pairs(spec: InstructionSet, roles: Mapping[str, str], margins: bool = False) -> InstructionSet:
    read_prompt, join = _read_prompt(spec), _choose_join(spec)

    def read_row(row: Row) -> Example:
        return replace(read_pair(row), margin=_read_margin(row)) if margins else read_pair(row)

    def read_pair(row: Row) -> Example:
        if all(map(_is_full_conversation, (row.get(name) for name in SIDES))):
            row.get("prompt")  # marks the column as read: it repeats what both begin with
            return _split_conversations(*(read_conversation(row, name, roles) for name in SIDES))
        asked = read_prompt(row)
        chosen, rejected = (_add_answer(asked, row, name, roles, join) for name in SIDES)
        return replace(chosen, rejected=rejected)

    return replace(spec, read_row=read_row, columns=(*spec.prompt_columns, *SIDES))


def _read_scored(spec: InstructionSet, roles: Mapping[str, str], conversational: bool | None) -> InstructionSet:
    pairs, join = _read_pairs(spec, roles), _choose_join(spec)
    own = spec.prompt_columns
    is_turn = conversational if own == ("prompt",) else True
    missing = (
        f"needs chosen and rejected, or {' and '.join(own or ('prompt',))} with an answer ({', '.join(ANSWER_COLUMNS)})"
    )

    def read_row(row: Row) -> Example:
        if all(name in row for name in SIDES):
            return pairs.read_row(row)
        name = find_answer_column(row, own)
        chat = next((each for each in _CONVERSATIONS if isinstance(row.get(each), list)), None)
        if name is None and chat is not None:
            return _end_with_answer(read_conversation(row, chat, roles))
        is_text = isinstance(row.get("prompt"), str)
        is_own = bool(own) and all(each in row for each in own) and not (own == ("prompt",) and is_text and is_turn)
        if name is None or not (is_own or is_text):
            raise RowError(f"{missing}, or messages that end with one")
        if is_turn is None and is_text:
            raise RowError("it is not known whether a prompt is a user's turn to this model; give messages")
        asked = _read_prompt(spec)(row) if is_own else Example(messages=({"role": "user", "content": row["prompt"]},))
        return _add_answer(asked, row, name, roles, join)

    return replace(spec, read_row=read_row, columns=(*(own or ("prompt",)), ANSWER_COLUMNS[0]))


def _end_with_answer(conversation: Conversation) -> Example:
    *before, last = conversation.turns
    if last["role"] != "assistant":
        raise RowError("the conversation does not end with the assistant's turn, which is what is scored")
    return build_chat(replace(conversation, turns=(*as_context(before), {**last, "train": True})))


def _read_prompt(spec: InstructionSet) -> Callable[[Row], Example]:
    assert spec.read_prompt is not None, "the set is resolved"
    return spec.read_prompt


def _choose_join(spec: InstructionSet) -> Callable[[str, str], str]:
    """Choose how an answer is joined to its prompt: directly for `prompt`, otherwise as for a template."""
    return (lambda _, answer: answer) if spec.prompt_columns == ("prompt",) else join_answer


def _read_margin(row: Row) -> float:
    value = row.get("margin")
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RowError(f"column margin holds {describe_kind(value)} instead of a number")
    return float(value)


def _read_labelled(spec: InstructionSet, there: Sequence[str]) -> InstructionSet:
    def read_row(row: Row) -> Example:
        name = next((each for each in _LABELS if each in row), _LABELS[0])
        known = {"true": True, "false": False, "1": True, "0": False}
        if (label := known.get(str(row.get(name)).strip().lower())) is None:
            raise RowError(f"column {name} must say whether the answer is a good one: true or false")
        bare = copy.copy(row)  # readers of answers to learn reject bad labels
        for each in set(_LABELS) & set(row):
            del bare[each]
        example = spec.read_row(bare)
        *before, last = example.messages or [{}]
        return replace(example, messages=(*as_context(before), last) if last else (), is_good=label)

    label = next((each for each in _LABELS if each in there), _LABELS[0])
    return replace(spec, read_row=read_row, columns=(*spec.columns, label))


def _is_full_conversation(value: Any) -> bool:
    """Return whether a value is a conversation from its beginning."""
    first = value[0] if isinstance(value, list) and value else None
    said = str(first.get("role", first.get("from"))).lower() if isinstance(first, dict) else ""
    return said in ("system", "developer", "user", "human", "prompter")


def _split_conversations(chosen: Conversation, rejected: Conversation) -> Example:
    """Use the common beginning of two conversations as their prompt."""
    pairs = zip(chosen.turns, rejected.turns, strict=False)
    shared = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if shared is None:  # they are equal, or one continues the other
        shared = min(len(chosen.turns), len(rejected.turns)) - 1
    sides = [
        build_chat(replace(each, turns=(*as_context(each.turns[:shared]), *each.turns[shared:])))
        for each in (chosen, rejected)
    ]
    return replace(sides[0], rejected=sides[1])


def _add_answer(
    asked: Example, row: Row, name: str, roles: Mapping[str, str], join: Callable[[str, str], str]
) -> Example:
    """Append the answer in a column to a prompt."""
    value = row[name]
    if isinstance(value, str) and not asked.messages:
        return replace(asked, answer=join(asked.prompt, value))
    said: tuple[Turn, ...] = ({"role": "assistant", "content": value},) if isinstance(value, str) else ()
    unread: tuple[str, ...] = ()
    if not isinstance(value, str):
        if not isinstance(value, (dict, list)):
            raise RowError(f"column {name} holds {describe_kind(value)} instead of an answer")
        read = read_conversation({name: [value] if isinstance(value, dict) else value}, name, roles)
        said, unread = read.turns, read.unread
    before = asked.messages or ({"role": "user", "content": asked.user_turn or asked.prompt},)
    turns = (*as_context(before), *said)
    return replace(build_chat(Conversation(turns, asked.tools)), question=asked.question, unread=asked.unread + unread)
