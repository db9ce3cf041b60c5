"""Probes what a chat template supports, and adapts conversations to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from utils.core.errors import ModelError
from utils.core.texts import RowError
from utils.data.conversations import THOUGHT_KEYS
from utils.data.dataset import Turn

SYSTEM_FOLDED = "whose system turn was merged into the first user turn, as the chat template has none"
JOINED = "with consecutive turns of a role joined, as the chat template wants them to alternate"
OPENING_LEFT_OUT = "without the opening assistant turn, as the chat template wants a user turn first"
THOUGHTS_WRITTEN = "with reasoning written as <think> ... </think> before the answer, as the chat template has none"
CALLS_NUMBERED = "with new ids of their calls and results, as the chat template wants nine letters and digits"
TOOLS_UNLISTED = "with tools that the chat template does not list; it writes their calls and results"
OWN_KEYS = ("train", "context")
"""Keys of a turn for our own use, hidden from the template."""

_ASK = {"role": "user", "content": "first question"}
_ANSWER = {"role": "assistant", "content": "first answer"}
_AGAIN = ({"role": "user", "content": "second question"}, {"role": "assistant", "content": "second answer"})
_TOOL = {"name": "probe_tool", "description": "d", "parameters": {"type": "object", "properties": {}}}
_CALLING = (
    _ASK,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "probe_tool", "arguments": {"x": "called so"}}}],
    },
    {"role": "tool", "name": "probe_tool", "content": "came back"},
    _ANSWER,
)
_CALLED = ("probe_tool", "called so", "came back")


@dataclass(frozen=True)
class Abilities:
    """What a template supports."""

    apply: Callable[..., str]
    """Renders turns: `ChatTemplate.apply`."""

    def adapt(self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> tuple[list[Turn], tuple[str, ...]]:
        """Adapt a conversation to the template, and return notes on what was changed.

        Raises:
            RowError: Nothing is left of the conversation.
            ModelError: There is no template, or it writes no tool calls but the conversation has some.
        """
        adapted = [self._name_thought(turn) for turn in turns]
        notes: list[str] = []
        if tools or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns):
            if not self._takes_calls:
                raise ModelError(
                    "the rows have tools, and the chat template writes no tool calls; take a base whose template does "
                    "(Qwen2.5, Llama 3.1 and later ones), or set model.chat_template to qwen2_5 or a template file"
                )
            notes += [TOOLS_UNLISTED] if tools and not self._lists_tools else []
        # Each step works on the result of the one before; only changes are noted.
        steps = (
            (self._number_calls, CALLS_NUMBERED),
            (self._write_thoughts, THOUGHTS_WRITTEN),
            (self._fold_system, SYSTEM_FOLDED),
            (self._join_repeated, JOINED),
            (self._drop_opening, OPENING_LEFT_OUT),
        )
        for step, note in steps:
            changed = step(adapted)
            if changed != adapted:
                adapted = changed
                notes.append(note)
        if not adapted:
            raise RowError("there is no user turn, which the chat template wants first")
        return adapted, tuple(notes)

    def _number_calls(self, turns: list[Turn]) -> list[Turn]:
        has_calls = any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns)
        return _number_calls(turns) if has_calls and self._needs_ids else turns

    def _name_thought(self, turn: Turn) -> Turn:
        """Store a thought under the key that the template reads."""
        if "reasoning_content" not in turn or self._thought_key is None:
            return turn
        return {**_without(turn, "reasoning_content"), self._thought_key: turn["reasoning_content"]}

    def _write_thoughts(self, turns: list[Turn]) -> list[Turn]:
        """Write thoughts into the answers if the template reads none."""
        has_thoughts = any("reasoning_content" in turn for turn in turns)
        return [_write_thought(turn) for turn in turns] if has_thoughts and self._thought_key is None else turns

    def _join_repeated(self, turns: list[Turn]) -> list[Turn]:
        repeats = any(a["role"] == b["role"] != "tool" for a, b in pairwise(turns))
        return _join_repeated(turns) if repeats and not self._takes_repeated else turns

    def _drop_opening(self, turns: list[Turn]) -> list[Turn]:
        first = 1 if turns[0]["role"] == "system" else 0
        opens = len(turns) > first and turns[first]["role"] == "assistant"
        return turns[:first] + turns[first + 1 :] if opens and not self._takes_opening else turns

    def _fold_system(self, turns: list[Turn]) -> list[Turn]:
        """Merge system turns that the template does not support into the user turns that follow."""
        folded: list[Turn] = []
        for index, turn in enumerate(turns):
            before = folded[-1] if folded else None
            if turn["role"] == "system" and not (self._takes_later_system if index else self._takes_system):
                folded.append({**turn, "role": "user", "folded": True})
            elif before is not None and before.get("folded") and turn["role"] == "user":
                folded[-1] = {**turn, "content": f"{before['content']}\n\n{turn['content']}"}
            else:
                folded.append(turn)
        return [_without(turn, "folded") for turn in folded]

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
    def call(self) -> list[Turn]:
        """A question and an assistant turn that calls a tool, or empty if the template writes no calls."""
        return _number_calls(list(_CALLING))[:2] if self._takes_calls else []

    @cached_property
    def _takes_calls(self) -> bool:
        return self._writes(_number_calls(list(_CALLING)), *_CALLED) or self._writes(list(_CALLING), *_CALLED)

    @cached_property
    def _needs_ids(self) -> bool:
        """Whether calls and results need ids of the form that Mistral's templates require."""
        return not self._writes(list(_CALLING), *_CALLED)

    @cached_property
    def _lists_tools(self) -> bool:
        return self._writes([_ASK, _ANSWER], "probe_tool", tools=[{"type": "function", "function": _TOOL}])

    @cached_property
    def _thought_key(self) -> str | None:
        """The key under which the template reads a thought, or None."""
        said = "I think so"
        return next((key for key in THOUGHT_KEYS if self._writes([_ASK, {**_ANSWER, key: said}], said)), None)

    def _writes(self, turns: list[Turn], *texts: str, tools: Sequence[dict[str, Any]] = ()) -> bool:
        try:
            written = self.apply(turns, False, tools)
        except RowError:
            return False
        except ModelError as error:
            if error.__cause__ is None:  # there is no template at all
                raise
            return False
        return all(text in written for text in texts)


def _without(turn: Turn, key: str) -> Turn:
    return {name: value for name, value in turn.items() if name != key}


def _write_thought(turn: Turn) -> Turn:
    if "reasoning_content" not in turn:
        return turn
    thought = turn["reasoning_content"].strip()
    return {**_without(turn, "reasoning_content"), "content": f"<think>\n{thought}\n</think>\n\n{turn['content']}"}


def _join_repeated(turns: list[Turn]) -> list[Turn]:
    """Join consecutive turns of the same role if both are trained on or neither is."""
    joined: list[Turn] = []
    for turn in turns:
        last: Turn = joined[-1] if joined else {}
        if turn["role"] == "tool" or any(last.get(key) != turn.get(key) for key in ("role", *OWN_KEYS)):
            joined.append(turn)
            continue
        both = {**last, **turn}
        for key in both.keys() & {"content", *THOUGHT_KEYS}:
            both[key] = "\n\n".join(each[key] for each in (last, turn) if each.get(key))
        if calls := [*last.get("tool_calls", ()), *turn.get("tool_calls", ())]:
            both["tool_calls"] = calls
        joined[-1] = both
    return joined


def _number_calls(turns: list[Turn]) -> list[Turn]:
    """Assign nine-character ids to calls and results; results without an id belong to the calls in order."""
    numbered: list[Turn] = []
    waiting: dict[str, str | None] = {}  # original ids of the calls that await a result, by new id
    count = 0
    for turn in turns:
        given = dict(turn)
        if turn["role"] == "tool":
            same = [new for new, own in waiting.items() if own is not None and own == turn.get("tool_call_id")]
            given["tool_call_id"] = next(iter(same or waiting), "call00000")
            waiting.pop(given["tool_call_id"], None)
        elif calls := turn.get("tool_calls"):
            waiting = {f"call{count + number:05}": call.get("id") for number, call in enumerate(calls, start=1)}
            given["tool_calls"] = [{**call, "id": new} for call, new in zip(calls, waiting, strict=True)]
            count += len(calls)
        numbered.append(given)
    return numbered
