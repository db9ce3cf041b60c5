"""Conversations are read turn by turn, and a wrong one says what is wrong."""

from __future__ import annotations

import pytest

from utils.data.conversations import build_chat, read_sharegpt, read_turns
from utils.data.texts import RowError

USER, ASSISTANT, SYSTEM = ({"role": role, "content": f"{role} text"} for role in ("user", "assistant", "system"))


def test_an_exchange_with_and_without_a_system_turn():
    plain = build_chat(read_turns([USER, ASSISTANT], "messages"))
    assert plain.messages == (USER, ASSISTANT)
    assert (plain.question, plain.reference) == ("user text", "assistant text")
    with_system = build_chat(read_turns([SYSTEM, USER, ASSISTANT, USER, ASSISTANT], "messages"))
    assert len(with_system.messages) == 5
    assert with_system.question == "", "several exchanges cannot be asked as one text"


def test_other_keys_of_a_turn_are_not_kept():
    assert read_turns([{**USER, "weight": 1, "tool_calls": []}], "messages") == (USER,)


def test_turns_after_the_last_answer_are_counted():
    example = build_chat((USER, ASSISTANT, USER))
    assert (example.messages, example.num_cut_turns) == ((USER, ASSISTANT), 1)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (None, r"holds nothing \(null\) instead of a list of turns"),
        ("text", "instead of a list of turns"),
        ([], "empty conversation"),
        ([USER, None], r"turn 2 is nothing \(null\)"),
        ([{"role": "tool", "content": "x"}, ASSISTANT], "turn 1: role is 'tool'; it must be one of system, user"),
        ([{"content": "x"}], "turn 1: role is None"),
        ([USER, {"role": "assistant", "content": None}], r"turn 2: content holds nothing \(null\)"),
        ([USER, {"role": "assistant", "content": 5}], "turn 2: content holds a number"),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], "turn 2: content holds a list"),
        ([USER, {**ASSISTANT, "tool_calls": [1]}], "turn 2 calls tools"),
        ([USER, USER, ASSISTANT], "turn 2 is the user's where the assistant's was due"),
        ([ASSISTANT, USER, ASSISTANT], "turn 1 is the assistant's where the user's was due"),
        ([USER, ASSISTANT, ASSISTANT], "turn 3 is the assistant's"),
        ([USER, SYSTEM, ASSISTANT], "turn 2 is the system's"),
        ([SYSTEM, ASSISTANT], "turn 2 is the assistant's"),
        ([USER], "no assistant's turn"),
        ([SYSTEM, USER], "no assistant's turn"),
    ],
)
def test_what_is_wrong_is_said(turns, reason):
    with pytest.raises(RowError, match=reason):
        build_chat(read_turns(turns, "messages"))


def test_sharegpt_names_become_roles():
    value = [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]
    turns = read_sharegpt(value, "conversations")
    assert [(turn["role"], turn["content"]) for turn in turns] == [("system", "s"), ("user", "h"), ("assistant", "g")]
    with pytest.raises(RowError, match="from is 'function_call'"):
        read_sharegpt([{"from": "function_call", "value": "x"}], "conversations")
