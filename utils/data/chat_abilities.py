"""What a chat template takes, found out by trying, and how a conversation is brought into that shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from utils.data.dataset import Turn
from utils.data.texts import RowError
from utils.errors import ModelError

SYSTEM_FOLDED = "whose system turn was put into the first user's turn, as the chat template has none"
JOINED = "with turns of one role joined, as the chat template wants them to alternate"
OPENING_LEFT_OUT = "without the assistant's first turn, as the chat template wants the user's before it"
THOUGHTS_WRITTEN = "with reasoning written as <think> ... </think> before the answer, as the chat template has none"
TOOLS_UNLISTED = "with tools that the chat template does not list; it writes their calls and results"
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Keys by which templates read a thought."""

_ASK = {"role": "user", "content": "first question"}
_ANSWER = {"role": "assistant", "content": "first answer"}
_TOOL = {"name": "probe_tool", "description": "d", "parameters": {"type": "object", "properties": {}}}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "probe_tool", "arguments": {"x": "called so"}}}


@dataclass(frozen=True)
class Abilities:
    """What a template takes."""

    apply: Callable[..., str]
    """Writes turns: `ChatTemplate.apply`."""

    def adapt(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> tuple[list[Turn], tuple[str, ...]]:
        """See `ChatTemplate.adapt`."""
        adapted, notes = list(turns), []
        if tools or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns):
            notes += self._check_tools(tools)
        if any("reasoning_content" in turn for turn in turns) and self._thought_key != "reasoning_content":
            adapted = [_move_thought(turn, self._thought_key) for turn in adapted]
            notes += [] if self._thought_key else [THOUGHTS_WRITTEN]
        if adapted[0]["role"] == "system" and not self._takes_system:
            adapted, notes = _fold_system(adapted), [*notes, SYSTEM_FOLDED]
        if _repeats(adapted) and not self._takes_repeated:
            adapted, notes = _join_repeated(adapted), [*notes, JOINED]
        first = 1 if adapted[0]["role"] == "system" else 0
        if len(adapted) > first and adapted[first]["role"] == "assistant" and not self._takes_opening:
            adapted, notes = adapted[:first] + adapted[first + 1 :], [*notes, OPENING_LEFT_OUT]
        if not adapted:
            raise RowError("there is no user's turn, which the chat template wants first")
        return adapted, tuple(notes)

    def _check_tools(self, tools: Sequence[dict[str, Any]]) -> list[str]:
        if not self._takes_calls:
            raise ModelError(
                "the rows have tools, and the chat template writes no tool calls; take a base whose template does "
                "(Qwen2.5, Llama 3.1 and later ones), or set model.chat_template to a template file that does"
            )
        return [] if not tools or self._lists_tools else [TOOLS_UNLISTED]

    @cached_property
    def _takes_system(self) -> bool:
        return self._writes([{"role": "system", "content": "be so kind"}, _ASK, _ANSWER], "be so kind")

    @cached_property
    def _takes_repeated(self) -> bool:
        again = [{"role": "user", "content": "second question"}, {"role": "assistant", "content": "second answer"}]
        return self._writes([_ASK, again[0], _ANSWER, again[1]], "second question", "second answer")

    @cached_property
    def _takes_opening(self) -> bool:
        return self._writes([{"role": "assistant", "content": "good day"}, _ASK, _ANSWER], "good day")

    @cached_property
    def _takes_calls(self) -> bool:
        result = {"role": "tool", "name": "probe_tool", "tool_call_id": "call00001", "content": "came back"}
        asked = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        return self._writes([_ASK, asked, result, _ANSWER], "probe_tool", "called so", "came back")

    @cached_property
    def _lists_tools(self) -> bool:
        return self._writes([_ASK, _ANSWER], "probe_tool", tools=[{"type": "function", "function": _TOOL}])

    @cached_property
    def _thought_key(self) -> str | None:
        """The key by which the template reads a thought; None: it reads none."""
        said = "I think so"
        return next((key for key in THOUGHT_KEYS if self._writes([_ASK, {**_ANSWER, key: said}], said)), None)

    def _writes(self, turns: list[Turn], *texts: str, tools: Sequence[dict[str, Any]] = ()) -> bool:
        try:
            written = self.apply(turns, False, tools)
        except RowError:
            return False
        return all(text in written for text in texts)


def _move_thought(turn: Turn, key: str | None) -> Turn:
    if "reasoning_content" not in turn:
        return turn
    thought = turn["reasoning_content"]
    rest = {name: value for name, value in turn.items() if name != "reasoning_content"}
    if key is not None:
        return {**rest, key: thought}
    return {**rest, "content": f"<think>\n{thought.strip()}\n</think>\n\n{turn['content']}"}


def _fold_system(turns: list[Turn]) -> list[Turn]:
    system, rest = turns[0], turns[1:]
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def _repeats(turns: list[Turn]) -> bool:
    return any(a["role"] == b["role"] != "tool" for a, b in pairwise(turns))


def _join_repeated(turns: list[Turn]) -> list[Turn]:
    """Join turns of one role that follow each other, where nothing but their texts differs."""
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else None
        if last is not None and turn["role"] != "tool" and {**last, "content": ""} == {**turn, "content": ""}:
            joined[-1] = {**turn, "content": f"{last['content']}\n\n{turn['content']}"}
        else:
            joined.append(turn)
    return joined
