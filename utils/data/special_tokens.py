"""Special tokens that stand in a row's own text: found, and read as ordinary text where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from utils.core.texts import list_texts
from utils.data.dataset import Example
from utils.data.text_tokens import TextTokens


def settle_special(example: Example, ends: str, tokens: TextTokens, escape: bool) -> tuple[Example, tuple[str, ...]]:
    """Look for special tokens in a row's own text.

    Args:
        example: The row.
        ends: The end that its answer has already, which is no text of it.
        tokens: The tokenizer.
        escape: Whether they become the tokens of their characters.

    Returns:
        The row, with its special tokens escaped where that is asked for, and a note for each kind of them.
    """
    own = replace(example, answer=example.answer.removesuffix(ends))
    texts = [own.prompt, own.answer, own.user_turn, *list_texts(own.messages), *list_texts(own.tools)]
    found = sorted(set().union(*map(tokens.find_special, texts)))
    how = "ordinary text" if escape else "special tokens"
    notes = tuple(f"with {each} in their own text, read as {how}" for each in found)
    if not found or not escape:
        return example, notes
    changed = {key: _map_texts(getattr(own, key), tokens.escape) for key in _TEXTS}
    return replace(own, **{**changed, "answer": changed["answer"] + ends}), notes


_TEXTS = ("prompt", "answer", "user_turn", "context", "messages", "tools")
"""Fields of an example that become tokens."""


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(each, change) for key, each in value.items()}
    return type(value)(_map_texts(each, change) for each in value) if isinstance(value, (list, tuple)) else value
