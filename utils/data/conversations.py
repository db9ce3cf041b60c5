"""Reads conversations: turns under various keys and role names, and a row's own system text and tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.core.json_files import NotJsonError, parse_json
from utils.core.texts import RowError, describe_kind, shorten_list
from utils.data.dataset import Example, Row, Turn

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
"""Role names in rows, in lower case, mapped to standard roles."""
_CALLS = ("function_call", "tool_call")
"""Roles whose text is the JSON of the assistant's calls."""
_SYSTEM_COLUMNS = ("system", "system_prompt")
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Keys for a thought, in rows and in templates."""
_WEIGHTS = ("weight", "loss_weight", "loss", "train")
_KEPT = ("name", "tool_call_id")
"""Keys of a turn that are passed to the chat template unchanged."""

Turns = tuple[Turn, ...]


@dataclass(frozen=True)
class Conversation:
    """A row's conversation."""

    turns: Turns
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas of the tools that the assistant may call."""
    unread: tuple[str, ...] = ()
    """Keys of turns that are not read."""


def read_conversation(
    row: Row, column: str, roles: Mapping[str, str] | None = None, completion: str | None = None
) -> Conversation:
    """Read a row's turns, {"role", "content"} or {"from", "value"}, and its columns system and tools.

    `roles` maps additional role names; `completion` is a column of further turns, which alone are trained on.
    """
    reader = _TurnReader({**ROLES, **{name.lower(): role for name, role in (roles or {}).items()}})
    turns = reader.read_all(row, column)
    if completion is not None:
        turns = (*as_context(turns), *reader.read_all(row, completion))
    return Conversation((*_read_system(row, turns), *turns), read_tools(row), tuple(reader.unread))


def read_context(row: Row) -> Turns:
    """Read what precedes an instruction in a row: a system text, and earlier exchanges in the column history."""
    history = row.get("history") or []
    pairs = [tuple(pair) for pair in history] if _is_list_of(history, (list, tuple)) else None
    if pairs is None or not all(len(pair) == 2 and _is_list_of(pair, str) for pair in pairs):
        raise RowError("column history must hold pairs of texts: [[question, answer], ...]")
    texts = [text for pair in pairs for text in pair]
    turns = tuple(
        {"role": "assistant", "content": text, "context": True} if number % 2 else {"role": "user", "content": text}
        for number, text in enumerate(texts)
    )
    return (*_read_system(row, turns), *turns)


def read_tools(row: Row) -> tuple[dict[str, Any], ...]:
    """Read a row's tools: a list of JSON schemas, or its JSON text."""
    value = row.get("tools") or row.get("functions")
    tools = _parse_json(value, "column tools") if isinstance(value, str) and value.strip() else value or []
    if isinstance(tools, dict):
        tools = [tools]
    if not _is_list_of(tools, dict):
        raise RowError("column tools must hold a list of tools, each with its name and parameters")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def build_chat(conversation: Conversation) -> Example:
    """Build an example from a conversation; turns after the last trained answer are dropped and counted."""
    turns = conversation.turns
    last = max((index for index, turn in enumerate(turns) if is_trained(turn)), default=0)
    if last == 0:  # an opening assistant turn answers nothing
        raise RowError("there is no assistant turn to train on")
    kept = turns[: last + 1]
    return Example(
        question=kept[0]["content"] if len(kept) == 2 else "",
        messages=kept,
        tools=conversation.tools,
        num_cut_turns=sum(turn.get("train", True) for turn in turns[last + 1 :]),
        unread=conversation.unread,
    )


def open_chat(conversation: Conversation) -> Example:
    """Build a prompt that ends where the assistant is to answer, dropping a final assistant turn."""
    turns = conversation.turns
    kept = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if not kept or kept[-1]["role"] not in ("user", "tool"):
        raise RowError("there is no user turn to answer")
    return Example(
        question=kept[0]["content"] if len(kept) == 1 else "",
        messages=kept,
        tools=conversation.tools,
        unread=conversation.unread,
    )


def as_context(turns: Sequence[Turn]) -> Turns:
    """Mark the assistant turns as part of a prompt."""
    return tuple({**turn, "context": True} if turn["role"] == "assistant" else turn for turn in turns)


def is_trained(turn: Turn) -> bool:
    """Return whether a turn is trained on, according to its row."""
    return turn["role"] == "assistant" and turn.get("train", True) and not turn.get("context")


def first_request(turns: Sequence[Turn]) -> str:
    """Return the text of the first user turn."""
    return next((str(turn["content"]) for turn in turns if turn["role"] == "user"), "")


class _TurnReader:
    """Reads turns one by one, noting unknown keys; the names in `roles` are in lower case."""

    def __init__(self, roles: Mapping[str, str]) -> None:
        self._roles = roles
        self.unread: dict[str, None] = {}

    def read_all(self, row: Row, column: str) -> Turns:
        if column not in row:
            raise RowError(f"no column {column}; there are: {shorten_list(row)}")
        value = row[column]
        if isinstance(value, str) and value.lstrip().startswith("["):  # as stored in tables
            value = _parse_json(value, f"column {column}")
        if not isinstance(value, (list, tuple)):
            raise RowError(f"column {column} holds {describe_kind(value)} instead of a list of turns")
        if not value:
            raise RowError(f"column {column} holds an empty conversation")
        return tuple(self.read(turn, number) for number, turn in enumerate(value, start=1))

    def read(self, value: Any, number: int) -> Turn:
        if not isinstance(value, dict):
            raise RowError(f"turn {number} is {describe_kind(value)} instead of an object with role and content")
        given = {key: each for key, each in value.items() if each is not None}
        said, content = (
            next((given.pop(key) for key in keys if key in given), None)
            for keys in (("role", "from"), ("content", "value"))
        )
        if said is None:
            raise RowError(f"turn {number} has no role; its keys are {shorten_list(value)}")
        role = self._roles.get(said.lower()) if isinstance(said, str) else None
        if role is None:
            raise RowError(
                f"turn {number}: the role is {said!r}; if it is a name of one, set dataset.roles: {{{said}: user}} "
                f"(or assistant, system, tool); known are {', '.join(self._roles)}"
            )
        turn: Turn = {"role": role, "content": "", **{key: given.pop(key) for key in _KEPT if key in given}}
        if isinstance(said, str) and said.lower() in _CALLS:
            turn["tool_calls"] = _read_calls(content, f"turn {number}")
        else:
            self._read_content(turn, content, given, number)
        self._read_weight(turn, given, number)
        self.unread |= dict.fromkeys(given)
        return turn

    def _read_content(self, turn: Turn, content: Any, given: dict[str, Any], number: int) -> None:
        where = f"turn {number}"
        thoughts = [given.pop(key) for key in THOUGHT_KEYS if key in given and turn["role"] == "assistant"]
        calls = _read_calls(given.pop("tool_calls", None) or [], where)
        calls += _read_calls(given.pop("function_call", None) or [], where)
        if isinstance(content, list):
            content, more_thoughts, more_calls = self._read_parts(content, where)
            thoughts, calls = thoughts + more_thoughts, calls + more_calls
        if calls and turn["role"] != "assistant":
            raise RowError(f"{where} is the {turn['role']}'s and calls tools; only the assistant does")
        if content is None and calls:
            content = ""
        if not isinstance(content, str) or not all(isinstance(each, str) for each in thoughts):
            wrong = next((each for each in thoughts if not isinstance(each, str)), content)
            raise RowError(f"{where}: content holds {describe_kind(wrong)} instead of a text")
        turn["content"] = content
        if thought := "\n".join(each for each in thoughts if each.strip()):
            turn["reasoning_content"] = thought
        if calls:
            turn["tool_calls"] = calls

    def _read_parts(self, parts: list[Any], where: str) -> tuple[str, list[Any], list[dict[str, Any]]]:
        """Read content given as a list of texts, thoughts and calls."""
        texts: list[str] = []
        thoughts: list[Any] = []
        calls: list[dict[str, Any]] = []
        for part in parts:
            given = {"type": "text", "text": part} if isinstance(part, str) else dict(part)
            kind = given.pop("type", "text")
            value = next((given.pop(key) for key in ("text", "value", kind) if key in given), None)
            if kind == "tool_call":
                calls += _read_calls(value, where)
            elif kind in ("text", *THOUGHT_KEYS) and isinstance(value, str):
                (texts if kind == "text" else thoughts).append(value)
            else:
                raise RowError(f"{where}: content holds a part of type {kind}; only texts can be trained on")
            self.unread |= dict.fromkeys(f"content.{key}" for key, each in given.items() if each is not None)
        return "".join(texts), thoughts, calls

    @staticmethod
    def _read_weight(turn: Turn, given: dict[str, Any], number: int) -> None:
        """Read whether a turn is trained on; only assistant turns ever are, so a 0 on others is accepted."""
        if turn["role"] != "assistant":
            for key in [key for key in _WEIGHTS if given.get(key) in (0, False)]:
                del given[key]
            return
        for key in [key for key in _WEIGHTS if key in given]:
            weight = given.pop(key)
            if weight not in (0, 1):
                raise RowError(f"turn {number}: {key} is {weight!r}; a turn is trained on (1, true) or not (0, false)")
            if not weight:
                turn["train"] = False


def _read_system(row: Row, turns: Turns) -> Turns:
    """Return the system turn from a row's column, or nothing if the conversation starts with the same one."""
    for column in _SYSTEM_COLUMNS:
        text = row.get(column)
        if text is None or (isinstance(text, str) and not text.strip()):
            continue
        if not isinstance(text, str):
            raise RowError(f"column {column} holds {describe_kind(text)} instead of a text")
        if turns and turns[0]["role"] == "system":
            if turns[0]["content"].strip() != text.strip():
                raise RowError(f"column {column} and the system turn say different things; leave one of them out")
            return ()
        return ({"role": "system", "content": text},)
    return ()


def _read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Read calls: {"name", "arguments"}, alone, in a list, under "function", or as JSON text."""
    read = _parse_json(value, f"{where}: the call") if isinstance(value, str) else value
    calls = []
    for each in read if isinstance(read, list) else [read]:
        call = each.get("function", each) if isinstance(each, dict) else each
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise RowError(f"{where}: a call must be an object with name and arguments")
        arguments = call.get("arguments", call.get("parameters")) or {}
        if isinstance(arguments, str):
            arguments = _parse_json(arguments, f"{where}: the arguments of {call['name']}")
        named = {"id": each["id"]} if isinstance(each.get("id"), str) else {}
        calls.append({**named, "type": "function", "function": {"name": call["name"], "arguments": arguments}})
    return calls


def _parse_json(text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except NotJsonError as error:
        raise RowError(f"{what} must be JSON ({error}): {text[:60]!r}") from error


def _is_list_of(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, kinds) for each in value)
