"""The prompt of a row without an answer equals the prompt it would be trained with."""

from __future__ import annotations

import pytest

from utils.core.errors import DataError, UserError
from utils.core.texts import RowError
from utils.data.dataset import load_dataset_plugin
from utils.data.instruction import resolve_set
from utils.inference.prompt_builder import build_chat_prompt_builder

CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
ROOMS = {
    "gsm8k": ({"name": "gsm8k"}, {"question": "2 + 3?", "answer": "5"}, ("answer",)),
    "metamathqa": ({"name": "metamathqa"}, {"query": "2 + 3?", "response": "5"}, ("response",)),
    "code_feedback": ({"name": "code_feedback"}, {"messages": CHAT}, ()),
    "template": ({"prompt_template": "{a} and {b} ="}, {"a": "2", "b": 3, "output": "5"}, ("output",)),
    "prompt_completion": ({}, {"prompt": "2 + 3 =", "completion": " 5"}, ("completion",)),
    "turns": ({}, {"prompt": CHAT[:1], "completion": CHAT[1:]}, ("completion",)),
    "messages": ({}, {"messages": CHAT}, ()),
    "alpaca": ({}, {"instruction": "Add.", "input": "2, 3", "output": "5"}, ("output",)),
    "sharegpt": ({}, {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]}, ()),
}


def _describe(write, settings, row):
    settings = {"name": "custom", **settings}
    if settings["name"] == "custom":
        settings["path"] = str(write("train.jsonl", [row]))
    room = load_dataset_plugin(settings["name"])
    return room.describe_instructions(room.Config(**settings))


@pytest.mark.parametrize("name", ROOMS)
@pytest.mark.parametrize("is_gone", [False, True])
def test_prompts_need_no_answers(write, tmp_path, name, is_gone):
    settings, row, answers = ROOMS[name]
    spec = _describe(write, settings, row)
    trained = resolve_set(spec).read_row(row)
    if is_gone and settings.get("name") is None:
        (tmp_path / "train.jsonl").unlink()
    bare = {key: value for key, value in row.items() if key not in answers}
    prompt_builder = build_chat_prompt_builder(spec, (), tuple(bare))
    asked = prompt_builder.read(bare)
    assert (asked.prompt, asked.user_turn, asked.answer) == (trained.prompt, trained.user_turn, "")
    assert asked.messages == (trained.messages[:-1] if trained.messages else ())
    assert prompt_builder.find_missing(bare) is None


@pytest.mark.parametrize("name", [name for name in ROOMS if name != "template"])
def test_a_bare_request_is_inserted_into_the_prompt(write, name):
    settings, row, _ = ROOMS[name]
    prompt_builder = build_chat_prompt_builder(_describe(write, settings, row), (), ())
    (laid,) = prompt_builder.lay_out(["Why?"])
    assert list(laid) == [prompt_builder.text_column]
    expected = prompt_builder.ask("Why?")
    assert prompt_builder.read(laid) == prompt_builder.read({"text": "Why?"}) == expected
    assert "Why?" in expected.prompt + str(expected.messages)


@pytest.mark.parametrize("name", ["messages", "sharegpt", "code_feedback"])
def test_a_chosen_column_holds_a_request_or_turns(write, name):
    settings, row, _ = ROOMS[name]
    prompt_builder = build_chat_prompt_builder(_describe(write, settings, row), ("said",), ())
    (own,) = row
    assert prompt_builder.find_missing(["said"]) is None
    assert prompt_builder.find_missing([own]) == f"no column said; there are: {own}"
    (laid,) = prompt_builder.lay_out(["Hello"])
    assert laid == {"said": "Hello"}
    expected = tuple(CHAT[:1])
    assert prompt_builder.read(laid).messages == prompt_builder.read({"said": row[own], own: "no"}).messages == expected
    with pytest.raises(RowError, match="no column said"):
        prompt_builder.read(row)


def test_a_prompt_of_several_columns(write):
    settings, row, _ = ROOMS["template"]
    prompt_builder = build_chat_prompt_builder(_describe(write, settings, row), ("x", "y"), ())
    assert prompt_builder.read({"x": "2", "y": "3", "b": "no"}).prompt == "2 and 3 ="
    with pytest.raises(RowError, match="no column y; there are: x, text"):
        prompt_builder.read({"x": "2", "text": "no"})
    plain = build_chat_prompt_builder(_describe(write, settings, row), (), ())
    assert [plain.read(each).prompt for each in plain.lay_out(["1", "2", "3", "4"])] == ["1 and 2 =", "3 and 4 ="]
    with pytest.raises(UserError, match="reads 2 texts per row"):
        plain.lay_out(["1"])
    with pytest.raises(UserError, match=r"the run reads 2 columns \(a, b\); name as many"):
        build_chat_prompt_builder(_describe(write, settings, row), ("x",), ())


def test_a_rows_system_text_and_tools_are_part_of_the_prompt(write):
    tools = [{"type": "function", "function": {"name": "add"}}]
    for room in ("messages", "alpaca"):  # a run on conversations, and one prompted by other columns
        prompt_builder = build_chat_prompt_builder(_describe(write, *ROOMS[room][:2]), (), ())
        example = prompt_builder.read({"messages": CHAT[:1], "tools": tools, "system": "Be kind."})
        assert example.messages == ({"role": "system", "content": "Be kind."}, CHAT[0])
        assert example.tools == tuple(tools)
    prompt_builder = build_chat_prompt_builder(_describe(write, *ROOMS["messages"][:2]), ("talk",), ())
    assert prompt_builder.read({"talk": CHAT[:1], "tools": tools}).tools == tuple(tools)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (CHAT[:1], CHAT[:1]),
        (CHAT, CHAT[:1]),
        ([*CHAT, {"role": "user", "content": "And?"}], [*CHAT, {"role": "user", "content": "And?"}]),
        ([{"role": "system", "content": "Be kind."}], None),
        (CHAT[1:], None),
        ([CHAT[0], CHAT[0]], [CHAT[0], CHAT[0]]),
    ],
)
def test_conversations_must_end_with_the_user(write, turns, expected):
    prompt_builder = build_chat_prompt_builder(_describe(write, *ROOMS["messages"][:2]), (), ())
    if expected is None:
        with pytest.raises(RowError):
            prompt_builder.read({"messages": turns})
    else:
        assert list(prompt_builder.read({"messages": turns}).messages) == expected


def test_an_unrecognised_format_is_refused(write, tmp_path):
    spec = _describe(write, {}, {"prompt": "a", "completion": "b"})
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(DataError, match=r"the columns fit no format; there are: body. Set dataset\.format"):
        build_chat_prompt_builder(spec, (), ("body",))


def test_a_row_without_text_is_refused(write):
    from utils.datasets.glue import Config, describe_classification
    from utils.inference.prompt_builder import build_text_prompt_builder

    prompt_builder = build_text_prompt_builder(describe_classification(Config(subset="rte")), ())
    for name in ("gsm8k", "template", "messages"):
        settings, row, _ = ROOMS[name]
        writer = build_chat_prompt_builder(_describe(write, settings, row), (), ())
        for blank in ({"text": " "}, {"prompt": ""}, dict.fromkeys(writer.columns, "\n")):
            if name != "template" or writer.columns[0] in blank:
                with pytest.raises(RowError, match="has no text"):
                    writer.read(blank)
    with pytest.raises(RowError, match="has no text"):
        prompt_builder.read({"sentence1": " ", "sentence2": ""})
    assert prompt_builder.read({"sentence1": "", "sentence2": "a"}) == ("", "a"), "one text of two may be empty"


def test_the_official_download_is_prompted_by_its_columns():
    from utils.datasets.glue import Config, describe_classification
    from utils.inference.prompt_builder import build_text_prompt_builder

    prompt_builder = build_text_prompt_builder(describe_classification(Config(subset="mrpc")), ())
    assert prompt_builder.read({"index": "0", "#1 String": "a", "#2 String": "b"}) == ("a", "b")
    assert prompt_builder.find_missing(("#1 String", "#2 String")) is None
    assert prompt_builder.find_missing(("#1 String", "x")) == "no column sentence2; there are: #1 String, x"


@pytest.mark.parametrize("there", [(), ("prompt",), ("text",)])
def test_with_conversation_pairs_a_bare_request_is_a_user_turn(write, there):
    row = {"prompt": "Hello", "chosen": CHAT, "rejected": [*CHAT[:1], {"role": "assistant", "content": "Go away"}]}
    spec = _describe(write, {}, row)
    prompt_builder = build_chat_prompt_builder(spec, (), there, conversational=True)
    for asked in ({"prompt": "Hello"}, {"messages": CHAT[:1]}, prompt_builder.lay_out(["Hello"])[0]):
        assert prompt_builder.read(asked).messages == (CHAT[0],)
    if there == ("prompt",):
        assert build_chat_prompt_builder(spec, (), there, conversational=False).read({"prompt": "Hello"}).messages == ()
