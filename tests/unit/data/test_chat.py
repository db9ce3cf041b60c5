"""Conversations through chat templates: only assistant turns are trained on, each with its end token."""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from utils.core.errors import ModelError
from utils.core.texts import RowError
from utils.data.chat import ChatTemplate
from utils.data.chat_abilities import (
    CALLS_NUMBERED,
    JOINED,
    OPENING_LEFT_OUT,
    SYSTEM_FOLDED,
    THOUGHTS_WRITTEN,
    TOOLS_UNLISTED,
    _join_repeated,
)
from utils.data.conversations import as_context
from utils.data.dataset import Example
from utils.data.drafts import SEVERAL_ROWS
from utils.data.encoding import MASKED, ExampleEncoder
from utils.modeling.tokenizer import CHATML

REAL_TOKENIZERS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "tokenizers"


def chat(*texts: str, system: str | None = None, **keys) -> Example:
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return Example(messages=tuple(turns), **keys)


def runs(encoder, encoded) -> list[str]:
    """Return the trained texts, one per run of consecutive trained tokens."""
    found: list[list[int]] = [[]]
    for label in encoded.labels:
        if label == MASKED:
            found += [[]] if found[-1] else []
        else:
            found[-1].append(label)
    return [encoder.tokenizer.decode(part) for part in found if part]


LONG_TEXTS = ("One?", "First.", "Two?", "Second.")
LONG = chat(*LONG_TEXTS, system="Be brief.")
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {}}},)
CALLING = Example(
    messages=(
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "RESULT"},
        {"role": "assistant", "content": "It is 4."},
    ),
    tools=TOOLS,
)


@pytest.mark.parametrize(
    ("template", "end", "trained"),
    [
        ("chatml", "<|im_end|>", ["First.<|im_end|>", "Second.<|im_end|>"]),
        ("llama3", "<|eot|>", ["First.<|eot|>", "Second.<|eot|>"]),
        ("llama2", "</s>", [" First. </s>", " Second. </s>"]),
        ("phi3", "<|eot|>", ["First.<|eot|>", "Second.<|eot|>"]),
    ],
)
def test_assistant_turns_and_their_ends_are_trained(make_encoder, template, end, trained):
    encoder = make_encoder(template)
    example = LONG if template != "llama2" else Example(messages=LONG.messages[1:])
    encoded = encoder.encode(example)
    assert runs(encoder, encoded) == trained
    whole = encoder.tokenizer.apply_chat_template(list(example.messages), tokenize=False)
    assert encoder.tokenizer.decode(encoded.input_ids) == whole.removesuffix("\n").removesuffix("\n</s>")
    token = encoder.tokenizer.convert_tokens_to_ids(end)
    ends = [index for index, label in enumerate(encoded.labels) if label == token]
    assert len(ends) == 2, "the end token of every answer is trained on"
    assert encoded.input_ids[-1] == token
    assert set(encoder.stop_token_ids) == {encoder.tokenizer.eos_token_id, token}


@pytest.mark.parametrize("template", ["chatml", "llama3", "llama2", "phi3"])
@pytest.mark.parametrize("num_exchanges", [1, 2])
def test_the_generation_prompt_equals_the_training_prompt(make_encoder, template, num_exchanges):
    encoder = make_encoder(template)
    example = chat(*["One?", "First.", "Two?", "Second."][: 2 * num_exchanges])
    encoded = encoder.encode(example)
    last_masked = max(index for index, label in enumerate(encoded.labels) if label == MASKED)
    prompt = encoder.encode_prompt(example)
    assert prompt == encoded.input_ids[: last_masked + 1]
    assert prompt == encoder.encode_prompt(Example(messages=example.messages[:-1]))
    text = encoder.tokenizer.apply_chat_template(
        list(example.messages[:-1]), tokenize=False, add_generation_prompt=True
    )
    assert prompt == encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_turns_encoded_separately_equal_the_whole_text_when_a_tokenizer_adds_spaces(spaced_tokenizer, chat_templates):
    tokenizer = copy.deepcopy(spaced_tokenizer)
    tokenizer.chat_template = chat_templates["llama2"]
    turns = LONG.messages[1:]
    encoded = ExampleEncoder(tokenizer, 200).encode(Example(messages=turns))
    assert encoded.input_ids == tokenizer.apply_chat_template(list(turns), return_dict=False)


def test_our_chatml_equals_the_one_of_these_tests(text_tokenizer):
    tokenizer = text_tokenizer("chatml")
    tokenizer.chat_template = CHATML
    encoder = ExampleEncoder(tokenizer, 200)
    assert runs(encoder, encoder.encode(LONG)) == ["First.<|im_end|>", "Second.<|im_end|>"]


def test_a_template_that_trims_is_followed(make_encoder):
    encoder = make_encoder("llama3")
    assert runs(encoder, encoder.encode(chat("One?", "  First. \n"))) == ["First.<|eot|>"]


def test_no_second_bos_token(make_encoder):
    encoder = make_encoder("llama3", bos=True)
    ids = encoder.encode(LONG).input_ids
    assert ids.count(encoder.tokenizer.bos_token_id) == 1


def test_prompt_and_answer_become_turns(make_encoder):
    encoder = make_encoder("chatml", as_chat=True, system_prompt="Be kind.")
    example = Example("Question: What?\nAnswer:", " Five.</s>", "What?", user_turn="What?")
    text = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    assert encoder.tokenizer.decode(encoder.encode_prompt(example)) == text
    encoded = encoder.encode(example)
    assert encoder.tokenizer.decode(encoded.input_ids) == text + "Five.<|im_end|>"
    assert runs(encoder, encoded) == ["Five.<|im_end|>"]
    without_turn = Example("Rendered prompt", " Five.")
    assert "user\nRendered prompt<|im_end|>" in encoder.tokenizer.decode(encoder.encode_prompt(without_turn))
    assert encoder.encode(Example("Empty", "")).num_trained == 0


def test_a_rows_system_turn_replaces_the_runs(make_encoder):
    encoder = make_encoder("chatml", system_prompt="Be kind.")
    own, added = (encoder.tokenizer.decode(encoder.encode(row).input_ids) for row in (LONG, chat("a", "b")))
    assert "Be brief." in own
    assert "Be kind." not in own
    assert added.startswith("<|im_start|>system\nBe kind.<|im_end|>")


@pytest.mark.parametrize("template", ["llama2", "forgets_system"])
def test_an_unsupported_system_turn_is_merged_into_the_user_turn(make_encoder, template):
    encoder = make_encoder(template)
    encoded = encoder.encode(LONG)
    assert encoded == replace(encoder.encode(chat("Be brief.\n\nOne?", *LONG_TEXTS[1:])), notes=encoded.notes)
    assert encoded.notes == (SYSTEM_FOLDED,)
    assert encoder.encode_prompt(LONG) == encoder.encode_prompt(chat("Be brief.\n\nOne?", *LONG_TEXTS[1:]))
    alone = [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}]
    assert (
        encoder.encode(Example(messages=tuple(alone))).input_ids == encoder.encode(chat("Be brief.", "Yes.")).input_ids
    )
    run = replace(encoder, system_prompt="Be brief.").encode(Example(messages=LONG.messages[1:]))
    assert run == encoded, "the run's own system text too"


def test_a_system_turn_inside_a_conversation_is_left_to_the_template(make_encoder):
    turns = (*LONG.messages[1:3], LONG.messages[0], *LONG.messages[3:])
    encoder = make_encoder("chatml")
    assert "system\nBe brief." in encoder.tokenizer.decode(encoder.encode(Example(messages=turns)).input_ids)
    for template in ("llama2", "forgets_system", "alternating"):
        encoder = make_encoder(template)
        encoded = encoder.encode(Example(messages=turns))
        assert encoded.input_ids == encoder.encode(chat("One?", "First.", "Be brief.\n\nTwo?", "Second.")).input_ids
        assert encoded.notes == (SYSTEM_FOLDED,)


def test_consecutive_turns_of_a_role_are_joined_only_if_the_template_requires_it(make_encoder):
    texts = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")]
    example = Example(messages=tuple({"role": role, "content": text} for role, text in texts))
    encoder = make_encoder("chatml")
    assert runs(encoder, encoder.encode(example)) == ["c<|im_end|>", "d<|im_end|>"]
    encoder = make_encoder("alternating")
    encoded = encoder.encode(example)
    assert encoded.input_ids == encoder.encode(chat("a\n\nb", "c\n\nd")).input_ids
    assert encoded.notes == (JOINED,)
    prompt = encoder.encode_prompt(example)
    assert prompt == encoded.input_ids[: len(prompt)]
    assert len(prompt) == len(encoded.input_ids) - encoded.num_trained
    excluded = Example(messages=(*example.messages[:3], {**example.messages[3], "train": False}))
    good = chat("a", "b")
    [refused, other] = encoder.encode_many([excluded, good])
    assert "Roles must alternate" in str(refused)
    assert other == [encoder.encode(good)]
    encoder = make_encoder("thinking")  # renders an answer differently once another follows
    assert runs(encoder, encoder.encode(example)) == ["<think></think>c\n\nd<|im_end|>"]
    with pytest.raises(RowError, match="opens turn 3 differently than it writes it"):
        encoder.encode(
            Example(messages=(*example.messages[:2], {**example.messages[2], "train": False}, example.messages[3]))
        )


def test_reasoning_of_joined_turns_is_joined_too(make_encoder):
    turns = [{"role": "assistant", "content": text, "reasoning_content": f"why {text}"} for text in "ab"]
    encoder = make_encoder("alternating")
    encoded = encoder.encode(Example(messages=(LONG.messages[1], *turns)))
    assert runs(encoder, encoded) == ["<think>\nwhy a\n</think>\n\na\n\n<think>\nwhy b\n</think>\n\nb<|im_end|>"], (
        "a template without reasoning support gets it with the text"
    )
    joined = _join_repeated(turns)
    assert joined == [{"role": "assistant", "content": "a\n\nb", "reasoning_content": "why a\n\nwhy b"}]


def test_text_and_tool_call_of_one_answer_are_joined_where_roles_alternate(make_encoder):
    encoder = make_encoder("tools")
    said = {"role": "assistant", "content": "I add."}
    example = replace(CALLING, messages=(CALLING.messages[0], said, *CALLING.messages[1:]))
    assert runs(encoder, encoder.encode(example))[0] == "I add.<|im_end|>"
    template = encoder.tokenizer.chat_template
    encoder.tokenizer.chat_template = "{% set ns = namespace(last='') %}" + template.replace(
        "{{ '<|im_start|>' + m.role",
        "{% if m.role == ns.last %}{{ raise_exception('Twice') }}{% endif %}{% set ns.last = m.role %}"
        "{{ '<|im_start|>' + m.role",
    )
    encoder = ExampleEncoder(encoder.tokenizer, 400)
    assert runs(encoder, encoder.encode(example))[0] == 'I add.{"name": "add", "arguments": {"a": 2}}<|im_end|>'


def test_an_opening_assistant_turn_is_context_and_not_trained_on(make_encoder):
    opening = {"role": "assistant", "content": "Welcome."}
    example = Example(messages=(opening, *LONG.messages[1:]))
    encoder = make_encoder("chatml")
    encoded = encoder.encode(example)
    assert encoder.tokenizer.decode(encoded.input_ids).startswith("<|im_start|>assistant\nWelcome.<|im_end|>")
    assert runs(encoder, encoded) == ["First.<|im_end|>", "Second.<|im_end|>"]
    assert encoded.untrained_turns == 1
    asked = Example(messages=(LONG.messages[0], opening, *LONG.messages[1:]))
    assert runs(encoder, encoder.encode(asked))[0] == "Welcome.<|im_end|>", "the system turn requests it"
    encoder = make_encoder("alternating")
    encoded = encoder.encode(example)
    assert encoded.input_ids == encoder.encode(Example(messages=LONG.messages[1:])).input_ids
    assert encoded.notes == (OPENING_LEFT_OUT,)
    with pytest.raises(RowError, match="no user turn"):
        encoder.encode(Example(messages=(opening,)))


def test_a_missing_template_says_what_to_set(make_encoder):
    with pytest.raises(ModelError, match=r"model\.chat_template to chatml"):
        make_encoder().encode(LONG)
    with pytest.raises(ModelError, match=r"model\.chat_template"):
        _ = make_encoder(as_chat=True).stop_token_ids


def test_a_template_without_end_of_turn_token_is_refused(make_encoder):
    encoder = make_encoder("never_ends")
    with pytest.raises(ModelError, match=r"could not learn to stop; set model\.extra_special_tokens: "):
        encoder.encode(LONG)
    assert encoder.stop_token_ids == (encoder.tokenizer.eos_token_id,), "prompts outside of chats still end"


def test_chatml_without_its_special_tokens_is_refused(load_tokenizer_of):
    for family in ("llama", "qwen2"):
        tokenizer = load_tokenizer_of(family)
        tokenizer.chat_template = CHATML
        with pytest.raises(ModelError, match="extra_special_tokens"):
            _ = ChatTemplate(tokenizer).end_of_turn


def test_a_template_with_another_generation_prompt_is_refused(make_encoder):
    with pytest.raises(ModelError, match="prompt and answer cannot be told apart"):
        make_encoder("opens_otherwise").encode(LONG)


def test_a_template_that_rewrites_earlier_turns_trains_each_answer_as_generated(make_encoder):
    encoder = make_encoder("thinking")
    [[first, encoded]] = encoder.encode_many([LONG])
    assert runs(encoder, first) == ["<think></think>First.<|im_end|>"]
    assert runs(encoder, encoded) == ["<think></think>Second.<|im_end|>"]
    for rows, messages in ((first, LONG.messages[:3]), (encoded, LONG.messages)):
        whole = encoder.tokenizer.apply_chat_template(list(messages), tokenize=False)
        assert encoder.tokenizer.decode(rows.input_ids) == whole.removesuffix("\n")
        prompt = encoder.encode_prompt(Example(messages=messages))
        assert prompt == rows.input_ids[: len(rows.input_ids) - rows.num_trained]
    assert (first.notes, encoded.notes, encoded.untrained_turns) == ((), (SEVERAL_ROWS,), 0)
    [[whole]] = make_encoder("thinking", train_on_prompt=True).encode_many([LONG])
    assert whole.labels == encoded.input_ids, "nothing is trained on twice"
    excluded = Example(messages=(*LONG.messages[:2], {**LONG.messages[2], "train": False}, *LONG.messages[3:]))
    assert encoder.encode_many([excluded]) == [[replace(encoded, notes=())]]


def test_turns_excluded_by_their_row_are_context_and_not_trained_on(make_encoder):
    encoder = make_encoder("chatml")
    turns = tuple({**turn, "train": False} if turn["content"] == "First." else turn for turn in LONG.messages)
    encoded = encoder.encode(Example(messages=turns))
    assert runs(encoder, encoded) == ["Second.<|im_end|>"]
    assert encoded.input_ids == encoder.encode(LONG).input_ids
    assert encoded.untrained_turns == 0
    with pytest.raises(RowError, match=r"weight 0.* but sft\.completion_only_loss: false trains on every token"):
        make_encoder("chatml", train_on_prompt=True).encode(Example(messages=turns))


def test_tool_calls_are_trained_on_and_tool_results_are_not(make_encoder):
    encoder = make_encoder("tools")
    encoded = encoder.encode(CALLING)
    assert runs(encoder, encoded) == ['{"name": "add", "arguments": {"a": 2}}<|im_end|>', "It is 4.<|im_end|>"]
    whole = encoder.tokenizer.apply_chat_template(list(CALLING.messages), tools=list(TOOLS), tokenize=False)
    assert encoder.tokenizer.decode(encoded.input_ids) == whole.removesuffix("\n")
    assert encoded.notes == ()
    asked = Example(messages=CALLING.messages[:3], tools=TOOLS)
    assert encoder.encode_prompt(asked) == encoder.encode_prompt(CALLING) == encoded.input_ids[: -len("It is 4.") - 1]


def test_tool_calls_and_results_get_ids_where_the_template_needs_them(make_encoder):
    encoder = make_encoder("wants_ids", max_length=2000)
    ask, call, result, answer = CALLING.messages
    two = {**call, "tool_calls": [{"id": "a", **CALL}, {"id": "b", **CALL}]}
    results = [{**result, "tool_call_id": name} for name in ("b", "a")]
    example = replace(CALLING, messages=(ask, call, call, result, two, *results, answer))
    encoded = encoder.encode(example)
    text = encoder.tokenizer.decode(encoded.input_ids)
    assert re.findall(r'"id": "(\w+)"', text) == ["call00001", "call00002", "call00003", "call00004"]
    assert re.findall(r"for (\w+)", text) == ["call00002", "call00004", "call00003"]
    assert encoded.notes == (TOOLS_UNLISTED, CALLS_NUMBERED)
    assert make_encoder("tools").encode(example).notes == ()


@pytest.mark.parametrize("template", ["chatml", "llama2"])
def test_a_template_without_tool_support_is_refused_in_one_sentence(make_encoder, template):
    for example in (CALLING, replace(CALLING, tools=()), replace(chat("a", "b"), tools=TOOLS)):
        with pytest.raises(ModelError, match=r"the chat template writes no tool calls; .* model\.chat_template"):
            make_encoder(template).encode(example)


def test_reasoning_goes_to_the_templates_field_or_before_the_answer(make_encoder):
    example = Example(
        messages=(LONG.messages[1], {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"})
    )
    encoder = make_encoder("tools")
    encoded = encoder.encode(example)
    assert (runs(encoder, encoded), encoded.notes) == (["[2 and 2]4<|im_end|>"], ())
    encoder = make_encoder("chatml")
    encoded = encoder.encode(example)
    assert (runs(encoder, encoded), encoded.notes) == (
        ["<think>\n2 and 2\n</think>\n\n4<|im_end|>"], (THOUGHTS_WRITTEN,),
    )  # fmt: skip
    stripping = copy.deepcopy(encoder.tokenizer)
    stripping.chat_template = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    with pytest.raises(RowError, match="leaves out the reasoning of turn 2"):
        ExampleEncoder(stripping, 200).encode(example)


def test_a_template_that_opens_a_thought_suggests_a_trainable_one(text_tokenizer):
    tokenizer = text_tokenizer("opens_otherwise")
    with pytest.raises(ModelError, match=r"set model\.chat_template: chatml, which writes the same turns"):
        ExampleEncoder(tokenizer, 400).encode(LONG)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|User|>", "<|Assistant|>"]})
    with pytest.raises(ModelError, match=r"set model\.chat_template: r1, "):
        ExampleEncoder(tokenizer, 400).encode(LONG)


def test_an_empty_turn_is_not_trained_on(make_encoder):
    encoder = make_encoder("chatml")
    encoded = encoder.encode(chat("One?", "", "Two?", "Second."))
    assert runs(encoder, encoded) == ["Second.<|im_end|>"]
    assert encoded.untrained_turns == 1
    assert encoder.encode(chat("One?", " ")).num_trained == 0


def test_context_turns_are_not_trained_on(make_encoder):
    for system in (None, "Be kind."):
        encoder = make_encoder("chatml", system_prompt=system)
        messages = (*as_context(LONG.messages[1:4]), LONG.messages[4])
        encoded = encoder.encode(Example(messages=messages))
        assert runs(encoder, encoded) == ["Second.<|im_end|>"]
        assert encoded.untrained_turns == 0


def test_long_conversations_lose_later_turns_then_the_middle_of_the_first_prompt(make_encoder):
    whole = make_encoder("chatml").encode(LONG)
    encoder = make_encoder("chatml", max_length=len(whole.input_ids) - 1)
    encoded = encoder.encode(LONG)
    assert runs(encoder, encoded) == ["First.<|im_end|>"]
    assert encoded.input_ids == whole.input_ids[: len(encoded.input_ids)]
    assert (encoded.exchanges_cut, encoded.prompt_cut, encoded.answer_cut) == (1, 0, 0)
    encoder = make_encoder("chatml", max_length=20)
    encoded = encoder.encode(LONG)
    assert runs(encoder, encoded) == ["First.<|im_end|>"]
    assert len(encoded.input_ids) == 20
    assert encoded.exchanges_cut == 1
    assert encoded.prompt_cut > 0


def test_a_real_template_with_a_default_system_turn():
    if not (REAL_TOKENIZERS / "qwen2.5").is_dir():
        pytest.skip("the real tokenizer qwen2.5 is missing (LORA_NS_REAL_DATA)")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REAL_TOKENIZERS / "qwen2.5")
    encoder = ExampleEncoder(tokenizer, 512)
    encoded = encoder.encode(Example(messages=LONG.messages[1:]))
    ids = tokenizer.apply_chat_template(list(LONG.messages[1:]), return_dict=False)
    assert encoded.input_ids == ids[:-1], "everything but the newline after the end token"
    assert runs(encoder, encoded) == ["First.<|im_end|>", "Second.<|im_end|>"]


@pytest.mark.parametrize("name", ["glaive_toolcall_en_demo.json", "glaive_toolcall_zh_demo.json"])
def test_real_tool_rows_are_read_without_loss(prepare_set, name):
    rows = REAL_TOKENIZERS.parent / "chat" / name
    if not (rows.is_file() and (REAL_TOKENIZERS / "qwen2.5").is_dir()):
        pytest.skip("real tool rows or the real tokenizer qwen2.5 are missing (LORA_NS_REAL_DATA)")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REAL_TOKENIZERS / "qwen2.5")
    data = prepare_set("custom", rows, encoder=ExampleEncoder(tokenizer, 16384))
    report = data.reports["train"]
    assert (report.rows_read, report.rows_used, report.num_encoded) == (300, 300, 300)
    assert (report.unread, report.notes, report.cut_turns, report.untrained_turns) == ({}, {}, 0, 0)
    read = json.loads(rows.read_text("utf-8"))
    said = [turn for row in read for turn in row["conversations"]]
    calls = sum(turn["from"] == "function_call" for turn in said)
    trained = [part for row in data.train for part in tokenizer.decode(
        [label for label in row["labels"] if label != MASKED]
    ).split("<|im_end|>") if part]  # fmt: skip
    assert sum("<tool_call>" in part for part in trained) == calls > 200
    assert not any("<tool_response>" in part for part in trained)
    answers = sorted(turn["value"] for turn in said if turn["from"] == "gpt")
    assert sorted(part for part in trained if "<tool_call>" not in part) == answers
