"""Conversations are parsed turn by turn under any known key and role names; malformed ones are explained."""

from __future__ import annotations

import json

import pytest

from utils.core.texts import RowError
from utils.data.conversations import build_chat, open_chat, read_conversation

USER, ASSISTANT, SYSTEM = ({"role": role, "content": f"{role} text"} for role in ("user", "assistant", "system"))
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def read(*turns, **row):
    return read_conversation({"messages": list(turns), **row}, "messages")


def chat(*turns, **row):
    return build_chat(read(*turns, **row))


def answer(**keys):
    """Parse an assistant turn."""
    return read(USER, {"role": "assistant", **keys}).turns[1]


def test_a_conversation_with_and_without_a_system_turn():
    plain = chat(USER, ASSISTANT)
    assert plain.messages == (USER, ASSISTANT)
    assert (plain.question, plain.reference) == ("user text", "assistant text")
    with_system = chat(SYSTEM, USER, ASSISTANT, USER, ASSISTANT)
    assert len(with_system.messages) == 5
    assert with_system.question == "", "several turns cannot be prompted as one text"


def test_turns_may_be_json_text_in_a_table():
    assert read_conversation({"messages": json.dumps([USER, ASSISTANT])}, "messages").turns == (USER, ASSISTANT)
    with pytest.raises(RowError, match="column messages must be JSON"):
        read_conversation({"messages": "[{"}, "messages")


def test_turns_after_the_last_answer_are_counted():
    example = chat(USER, ASSISTANT, USER)
    assert (example.messages, example.num_cut_turns) == ((USER, ASSISTANT), 1)


def test_unused_keys_are_reported_unless_empty():
    turn = {**USER, "weight": 1, "tool_calls": [], "emotion": "glad", "language": None}
    assert read(turn, ASSISTANT).unread == ("weight", "emotion"), "a user's turn is not trained on whatever it says"
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    assert read({"role": "user", "content": [part]}).unread == ("content.cache_control",)
    assert read({**USER, "weight": 0, "name": "Tom"}, {**ASSISTANT, "weight": 1}).unread == ()


@pytest.mark.parametrize("key", ["weight", "loss_weight", "loss", "train"])
def test_a_turn_of_weight_zero_is_not_trained_on(key):
    for trained, values in ((True, (1, 1.0, True)), (False, (0, 0.0, False))):
        for value in values:
            assert answer(content="a", **{key: value}).get("train", True) is trained
    with pytest.raises(RowError, match=rf"turn 2: {key} is 0\.5; a turn is trained on \(1, true\) or not"):
        answer(content="a", **{key: 0.5})
    left = chat(USER, ASSISTANT, USER, {**ASSISTANT, key: 0})
    assert left.messages == (USER, ASSISTANT), "the reference is not an excluded answer"
    with pytest.raises(RowError, match="no assistant turn to train on"):
        chat(USER, {**ASSISTANT, key: 0})


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_read_from_every_known_key(key):
    expected = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    assert answer(content="4", **{key: "2 and 2"}) == expected
    assert answer(content=[{"type": key, "value": "2 and 2"}, {"type": "text", "text": "4"}]) == expected
    assert answer(content=[{"type": key, key: "2 and 2"}, "4"]) == expected


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_tool_calls_are_read_in_every_form(arguments):
    call = {"name": "add", "arguments": arguments}
    expected = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert answer(content=None, tool_calls=[{"type": "function", "function": call}]) == expected
    assert answer(tool_calls=[call]) == expected
    assert answer(content="", function_call=call) == expected
    assert answer(content=[{"type": "tool_call", "value": json.dumps(call)}]) == expected
    shared = read_conversation({"c": [{"from": "function_call", "value": json.dumps(call)}]}, "c").turns
    assert shared == (expected,)
    assert answer(tool_calls=[{"id": "x1", "function": call}])["tool_calls"] == [{"id": "x1", **CALL}]
    said = answer(content="I add.", tool_calls=[call, call])
    assert (said["content"], len(said["tool_calls"])) == ("I add.", 2)
    assert chat(USER, expected).reference == '{"name": "add", "arguments": {"a": 1}}'


def test_a_rows_tools_become_schemas_and_its_system_text_becomes_a_turn():
    schema = {"name": "add", "parameters": {}}
    expected = ({"type": "function", "function": schema},)
    for tools in ([schema], json.dumps([schema]), list(expected), schema):
        assert chat(USER, ASSISTANT, tools=tools).tools == expected
    assert chat(USER, ASSISTANT, functions=[schema]).tools == expected
    for none in ("", "[]", [], None):
        assert chat(USER, ASSISTANT, tools=none).tools == ()
    assert chat(USER, ASSISTANT, system="Be kind.").messages[0] == {"role": "system", "content": "Be kind."}
    assert chat(SYSTEM, USER, ASSISTANT, system="system text").messages == (SYSTEM, USER, ASSISTANT)
    assert chat(USER, ASSISTANT, system=" ").messages == (USER, ASSISTANT)
    with pytest.raises(RowError, match="column system and the system turn say different things"):
        chat(SYSTEM, USER, ASSISTANT, system="Be kind.")
    with pytest.raises(RowError, match="column tools must hold a list of tools"):
        chat(USER, ASSISTANT, tools=[1])
    with pytest.raises(RowError, match="column tools must be JSON"):
        chat(USER, ASSISTANT, tools="add")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (None, r"holds nothing \(null\) instead of a list of turns"),
        ("text", "instead of a list of turns"),
        ([], "empty conversation"),
        ([USER, None], r"turn 2 is nothing \(null\)"),
        (
            [{"role": "narrator", "content": "x"}, ASSISTANT],
            r"the role is 'narrator'.* dataset\.roles: {narrator: user}",
        ),
        ([{"content": "x"}], "turn 1 has no role; its keys are content"),
        ([USER, {"role": "assistant", "content": None}], r"turn 2: content holds nothing \(null\)"),
        ([USER, {"role": "assistant", "content": 5}], "turn 2: content holds a number"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "a part of type image_url"),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], "a part of type text"),
        ([USER, {**ASSISTANT, "tool_calls": [1]}], "turn 2: a call must be an object with name and arguments"),
        ([{**USER, "tool_calls": [CALL]}], "turn 1 is the user's and calls tools"),
        ([USER, {"role": "function_call", "content": "add 1"}], "turn 2: the call must be JSON"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}], "arguments of f must be JSON"),
        ([USER, {**ASSISTANT, "thinking": 5}], "turn 2: content holds a number"),
        ([USER], "no assistant turn"),
        ([ASSISTANT], "no assistant turn"),
        ([SYSTEM, USER], "no assistant turn"),
    ],
)
def test_malformed_conversations_are_explained(turns, reason):
    with pytest.raises(RowError, match=reason):
        build_chat(read_conversation({"messages": turns}, "messages"))


def test_alternative_names_of_roles_and_keys():
    value = [
        {"from": "system", "value": "s"},
        {"from": "Human", "value": "h"},
        {"from": "gpt", "value": "g"},
        {"from": "observation", "value": "o"},
    ]
    turns = read_conversation({"conversations": value}, "conversations").turns
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("system", "s"), ("user", "h"), ("assistant", "g"), ("tool", "o"),
    ]  # fmt: skip
    own = [{"role": "Narrator", "content": "n"}, {"role": "hero", "content": "h"}]
    turns = read_conversation({"talk": own}, "talk", {"narrator": "user", "hero": "assistant"}).turns
    assert [turn["role"] for turn in turns] == ["user", "assistant"]


def test_a_prompt_ends_before_the_assistants_turn():
    assert open_chat(read(USER, ASSISTANT)).messages == (USER,)
    result = {"role": "tool", "content": "5", "name": "add", "tool_call_id": "x1"}
    assert open_chat(read(USER, {"role": "assistant", "tool_calls": [CALL]}, result)).messages[2] == result
    with pytest.raises(RowError, match="no user turn to answer"):
        open_chat(read(SYSTEM))
