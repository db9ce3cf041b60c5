"""Reads conversations: turns of system, user and assistant, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.data.dataset import Example
from utils.data.texts import RowError, describe_kind

SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "system": "system",
}  # fmt: skip
_ROLES = {role: role for role in ("system", "user", "assistant")}

Turns = tuple[dict[str, str], ...]


def read_turns(value: Any, column: str) -> Turns:
    """Read turns of the form {"role": "user", "content": "Hello"}.

    Raises:
        RowError: Names the turn and what is wrong with it.
    """
    return _read(value, column, ("role", "content"), _ROLES)


def read_sharegpt(value: Any, column: str) -> Turns:
    """Read turns of the form {"from": "human", "value": "Hello"}.

    Raises:
        RowError: Names the turn and what is wrong with it.
    """
    return _read(value, column, ("from", "value"), SHAREGPT_ROLES)


def build_chat(turns: Turns, num_context: int = 0) -> Example:
    """Make an example of turns; what follows the last answer is left out and counted.

    Args:
        turns: Read and checked one by one.
        num_context: So many first turns are not trained on.

    Raises:
        RowError: The roles stand in a wrong order, or nobody answers.
    """
    last = max((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
    if last is None or last < num_context:
        raise RowError("there is no assistant's turn to train on")
    _check_order(turns)
    kept = turns[: last + 1]
    return Example(
        question=kept[0]["content"] if len(kept) == 2 else "",
        messages=kept,
        num_context=num_context,
        num_cut_turns=len(turns) - len(kept),
    )


def open_chat(turns: Turns) -> Example:
    """Make a prompt of turns that ends where the assistant is to speak; a last turn of its own is left out.

    Raises:
        RowError: The roles stand in a wrong order, or nobody asks.
    """
    kept = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if not kept or kept[-1]["role"] != "user":
        raise RowError("there is no user's turn to answer")
    _check_order(kept)
    return Example(question=kept[0]["content"] if len(kept) == 1 else "", messages=kept)


def first_request(turns: Turns) -> str:
    """Give the first thing that the user says."""
    return next((turn["content"] for turn in turns if turn["role"] == "user"), "")


def _read(value: Any, column: str, keys: tuple[str, str], roles: Mapping[str, str]) -> Turns:
    if not isinstance(value, (list, tuple)):
        raise RowError(f"column {column} holds {describe_kind(value)} instead of a list of turns")
    if not value:
        raise RowError(f"column {column} holds an empty conversation")
    return tuple(_read_turn(turn, number, keys, roles) for number, turn in enumerate(value, start=1))


def _read_turn(turn: Any, number: int, keys: tuple[str, str], roles: Mapping[str, str]) -> dict[str, str]:
    role_key, text_key = keys
    if not isinstance(turn, dict):
        raise RowError(f"turn {number} is {describe_kind(turn)} instead of an object with {role_key} and {text_key}")
    role, text = turn.get(role_key), turn.get(text_key)
    if not isinstance(role, str) or role not in roles:
        raise RowError(f"turn {number}: {role_key} is {role!r}; it must be one of {', '.join(roles)}")
    if turn.get("tool_calls"):
        raise RowError(f"turn {number} calls tools, which cannot be trained on here")
    if not isinstance(text, str):
        raise RowError(f"turn {number}: {text_key} holds {describe_kind(text)} instead of a text")
    return {"role": roles[role], "content": text}


def _check_order(turns: Turns) -> None:
    """Hold that after a system turn, if there is one, user and assistant take turns, the user first."""
    start = 1 if turns[0]["role"] == "system" else 0
    for index, turn in enumerate(turns[start:]):
        expected = "assistant" if index % 2 else "user"
        if turn["role"] != expected:
            number = start + index + 1
            raise RowError(f"turn {number} is the {turn['role']}'s where the {expected}'s was due")
