"""Conversations through chat templates: only assistant turns are trained on, each with the token that ends it."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from utils.data.chat import ChatTemplate
from utils.data.dataset import Example
from utils.data.encoding import MASKED, ExampleEncoder
from utils.data.texts import RowError
from utils.errors import ModelError
from utils.modeling.tokenizer import CHATML

REAL_TOKENIZERS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "tokenizers"


def chat(*texts: str, system: str | None = None, **keys) -> Example:
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return Example(messages=tuple(turns), **keys)


def runs(encoder, encoded) -> list[str]:
    """Give the trained texts, one per run of trained tokens."""
    found: list[list[int]] = [[]]
    for label in encoded.labels:
        if label == MASKED:
            found += [[]] if found[-1] else []
        else:
            found[-1].append(label)
    return [encoder.tokenizer.decode(part) for part in found if part]


LONG = chat("One?", "First.", "Two?", "Second.", system="Be brief.")


@pytest.mark.parametrize(
    ("template", "end", "trained"),
    [
        ("chatml", "<|im_end|>", ["First.<|im_end|>", "Second.<|im_end|>"]),
        ("llama3", "<|eot|>", ["First.<|eot|>", "Second.<|eot|>"]),
        ("llama2", "</s>", [" First. </s>", " Second. </s>"]),
    ],
)
def test_assistant_turns_and_their_ends_are_trained(make_encoder, template, end, trained):
    encoder = make_encoder(template)
    example = LONG if template != "llama2" else Example(messages=LONG.messages[1:])
    encoded = encoder.encode(example)
    assert runs(encoder, encoded) == trained
    whole = encoder.tokenizer.apply_chat_template(list(example.messages), tokenize=False)
    assert encoder.tokenizer.decode(encoded.input_ids) == whole.removesuffix("\n")
    token = encoder.tokenizer.convert_tokens_to_ids(end)
    ends = [index for index, label in enumerate(encoded.labels) if label == token]
    assert len(ends) == 2, "the end of every answer is trained on"
    assert encoded.input_ids[-1] == token
    assert set(encoder.stop_token_ids) == {encoder.tokenizer.eos_token_id, token}


@pytest.mark.parametrize("template", ["chatml", "llama3", "llama2"])
@pytest.mark.parametrize("num_exchanges", [1, 2])
def test_the_prompt_to_generate_from_is_that_of_training(make_encoder, template, num_exchanges):
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


def test_turns_cut_one_by_one_are_the_running_text_where_a_tokenizer_adds_spaces(spaced_tokenizer, chat_templates):
    tokenizer = copy.deepcopy(spaced_tokenizer)
    tokenizer.chat_template = chat_templates["llama2"]
    turns = LONG.messages[1:]
    encoded = ExampleEncoder(tokenizer, 200).encode(Example(messages=turns))
    assert encoded.input_ids == tokenizer.apply_chat_template(list(turns), return_dict=False)


def test_our_chatml_is_the_one_of_these_tests(text_tokenizer):
    tokenizer = text_tokenizer("chatml")
    tokenizer.chat_template = CHATML
    encoder = ExampleEncoder(tokenizer, 200)
    assert runs(encoder, encoder.encode(LONG)) == ["First.<|im_end|>", "Second.<|im_end|>"]


def test_a_template_that_trims_is_followed(make_encoder):
    encoder = make_encoder("llama3")
    assert runs(encoder, encoder.encode(chat("One?", "  First. \n"))) == ["First.<|eot|>"]


def test_no_second_beginning_of_text(make_encoder):
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


def test_a_runs_system_turn_gives_way_to_a_rows_own(make_encoder):
    encoder = make_encoder("chatml", system_prompt="Be kind.")
    own, added = (encoder.tokenizer.decode(encoder.encode(row).input_ids) for row in (LONG, chat("a", "b")))
    assert "Be brief." in own
    assert "Be kind." not in own
    assert added.startswith("<|im_start|>system\nBe kind.<|im_end|>")


@pytest.mark.parametrize(
    ("template", "reason"), [("llama2", "refuses .*No system turns here"), ("forgets_system", "leaves the system turn")]
)
def test_a_system_turn_that_the_template_does_not_take_makes_a_bad_row(make_encoder, template, reason):
    encoder = make_encoder(template)
    with pytest.raises(RowError, match=reason):
        encoder.encode(LONG)
    results = encoder.encode_many([LONG, chat("a", "b")])
    assert isinstance(results[0], RowError)
    assert results[1] == encoder.encode(chat("a", "b"))


def test_no_template_says_what_to_set(make_encoder):
    with pytest.raises(ModelError, match=r"model\.chat_template to chatml"):
        make_encoder().encode(LONG)
    with pytest.raises(ModelError, match=r"model\.chat_template"):
        _ = make_encoder(as_chat=True).stop_token_ids


def test_a_template_that_ends_turns_by_no_token_is_refused(make_encoder):
    encoder = make_encoder("never_ends")
    with pytest.raises(ModelError, match=r"could not learn to stop; add .* under model\.extra_special_tokens"):
        encoder.encode(LONG)
    assert encoder.stop_token_ids == (encoder.tokenizer.eos_token_id,), "prompts without chats still stop"


def test_chatml_in_pieces_is_refused(load_tokenizer_of):
    for family in ("llama", "qwen2"):
        tokenizer = load_tokenizer_of(family)
        tokenizer.chat_template = CHATML
        with pytest.raises(ModelError, match="extra_special_tokens"):
            _ = ChatTemplate(tokenizer).end_of_turn


def test_a_template_that_opens_otherwise_is_refused(make_encoder):
    with pytest.raises(ModelError, match="prompt and answer cannot be told apart"):
        make_encoder("opens_otherwise").encode(LONG)


def test_a_template_that_rewrites_earlier_turns_trains_the_last(make_encoder):
    encoder = make_encoder("thinking")
    encoded = encoder.encode(LONG)
    assert runs(encoder, encoded) == ["<think></think>Second.<|im_end|>"]
    assert encoded.untrained_turns == 1
    whole = encoder.tokenizer.apply_chat_template(list(LONG.messages), tokenize=False)
    assert encoder.tokenizer.decode(encoded.input_ids) == whole.removesuffix("\n")
    assert encoder.encode_prompt(LONG) == encoded.input_ids[: len(encoded.input_ids) - encoded.num_trained]


def test_an_empty_turn_is_not_trained_on(make_encoder):
    encoder = make_encoder("chatml")
    encoded = encoder.encode(chat("One?", "", "Two?", "Second."))
    assert runs(encoder, encoded) == ["Second.<|im_end|>"]
    assert encoded.untrained_turns == 1
    assert encoder.encode(chat("One?", " ")).num_trained == 0


@pytest.mark.parametrize("num_context", [2, 3])
def test_context_turns_are_not_trained_on(make_encoder, num_context):
    for system in (None, "Be kind."):
        encoder = make_encoder("chatml", system_prompt=system)
        encoded = encoder.encode(chat("One?", "First.", "Two?", "Second.", num_context=num_context))
        assert runs(encoder, encoded) == ["Second.<|im_end|>"]
        assert encoded.untrained_turns == 0


def test_long_conversations_lose_later_exchanges_then_the_first_prompts_middle(make_encoder):
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


def test_a_real_template_with_a_system_turn_of_its_own():
    if not (REAL_TOKENIZERS / "qwen2.5").is_dir():
        pytest.skip("no qwen2.5 among the real tokenizers")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REAL_TOKENIZERS / "qwen2.5")
    encoder = ExampleEncoder(tokenizer, 512)
    encoded = encoder.encode(Example(messages=LONG.messages[1:]))
    ids = tokenizer.apply_chat_template(list(LONG.messages[1:]), return_dict=False)
    assert encoded.input_ids == ids[:-1], "all but the line break after the end"
    assert runs(encoder, encoded) == ["First.<|im_end|>", "Second.<|im_end|>"]
