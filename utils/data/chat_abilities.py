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

OWN_KEYS = ("train", "context")
"""Keys of a turn that are ours, not the template's."""

_ASK = {"role": "user", "content": "first question"}
_ANSWER = {"role": "assistant", "content": "first answer"}
_AGAIN = ({"role": "user", "content": "second question"}, {"role": "assistant", "content": "second answer"})
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
        folded = self._fold_system(adapted)
        if folded != adapted:
            adapted, notes = folded, [*notes, SYSTEM_FOLDED]
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

    def _fold_system(self, turns: list[Turn]) -> list[Turn]:
        """Put system turns that the template does not take into the user's turns behind them."""
        folded: list[Turn] = []
        for index, turn in enumerate(turns):
            before = folded[-1] if folded else None
            if turn["role"] == "system" and not (self._takes_later_system if index else self._takes_system):
                folded.append({**turn, "role": "user", "folded": True})
            elif before is not None and before.get("folded") and turn["role"] == "user":
                folded[-1] = {**turn, "content": f"{before['content']}\n\n{turn['content']}"}
            else:
                folded.append(turn)
        return [{key: value for key, value in turn.items() if key != "folded"} for turn in folded]

    @cached_property
    def _takes_system(self) -> bool:
        return self._writes([{"role": "system", "content": "be so kind"}, _ASK, _ANSWER], "be so kind")

    @cached_property
    def _takes_later_system(self) -> bool:
        return self._writes([_ASK, _ANSWER, {"role": "system", "content": "be so kind"}, *_AGAIN], "be so kind")

    @cached_property
    def _takes_repeated(self) -> bool:
        turns = [_ASK, _AGAIN[0], _ANSWER, _AGAIN[1]]
        if not self._writes(turns, *(turn["content"] for turn in turns)):
            return False
        return self.apply(turns, False).startswith(self.apply(turns[:3], True))

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


def _repeats(turns: list[Turn]) -> bool:
    return any(a["role"] == b["role"] != "tool" for a, b in pairwise(turns))


def _join_repeated(turns: list[Turn]) -> list[Turn]:
    """Join turns of one role that follow each other, where both are trained on or neither is."""
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else turn
        if (
            joined
            and last["role"] == turn["role"] != "tool"
            and all(last.get(key) == turn.get(key) for key in OWN_KEYS)
        ):
            texts = [each["content"] for each in (last, turn) if each["content"]]
            calls = [*last.get("tool_calls", ()), *turn.get("tool_calls", ())]
            both = {**last, **turn, "content": "\n\n".join(texts)}
            joined[-1] = {**both, "tool_calls": calls} if calls else both
        else:
            joined.append(turn)
    return joined
