"""Labels: the prompt is masked; the answer and its end token are trained on, at any length."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.core.errors import DataError, ModelError
from utils.data.dataset import Example
from utils.data.encoding import MASKED, ExampleEncoder

PAIR = Example("Question: what?\nAnswer:", " It is 5.", "what?")
REAL_TOKENIZERS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "tokenizers"
BASE = Path(__file__).parents[3] / "examples" / "quickstart" / "base"


def trained_text(encoder, encoded):
    kept = [label for label in encoded.labels if label != MASKED]
    return encoder.tokenizer.decode(kept)


def masked_ids(encoded):
    return encoded.input_ids[: len(encoded.input_ids) - encoded.num_trained]


@pytest.mark.parametrize("bos", [False, True])
def test_the_prompt_is_masked_and_the_answer_with_its_end_token_is_trained(make_encoder, bos):
    encoder = make_encoder(bos=bos)
    encoded = encoder.encode(PAIR)
    text = encoder.tokenizer.decode(encoded.input_ids)
    assert text == ("<s>" if bos else "") + "Question: what?\nAnswer: It is 5.</s>"
    assert trained_text(encoder, encoded) == " It is 5.</s>"
    assert encoded.input_ids[-1] == encoded.labels[-1] == encoder.tokenizer.eos_token_id
    assert all(label in (MASKED, token) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))
    assert encoded.num_trained == sum(label != MASKED for label in encoded.labels)
    assert encoder.encode_prompt(PAIR) == masked_ids(encoded)


def test_tokens_equal_those_of_the_whole_text():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    encoder = ExampleEncoder(tokenizer, 256)
    example = Example("Question: Tom has 5 books.\nAnswer:", " 5 plus 13 is 18.\n#### 18")
    encoded = encoder.encode(example)
    assert encoded.input_ids == [*tokenizer(example.prompt + example.answer)["input_ids"], tokenizer.eos_token_id]
    assert trained_text(encoder, encoded) == example.answer + tokenizer.eos_token
    assert encoder.stop_token_ids == (tokenizer.eos_token_id,)


def test_a_text_is_trained_on_as_a_whole(make_encoder):
    encoder = make_encoder(bos=True)
    encoded = encoder.encode(Example(answer="All of it."))
    assert trained_text(encoder, encoded) == "All of it.</s>"
    assert encoder.tokenizer.decode(encoded.input_ids) == "<s>All of it.</s>"


def test_an_end_token_in_the_text_is_not_doubled(make_encoder):
    encoder = make_encoder()
    plain, ended = (encoder.encode(Example("a:", answer)).input_ids for answer in (" b", " b</s>"))
    assert plain == ended


def test_a_bos_token_in_the_prompt_is_not_doubled(make_encoder):
    encoder = make_encoder(bos=True)
    assert encoder.encode(Example("<s>a:", " b")).input_ids == encoder.encode(Example("a:", " b")).input_ids


@pytest.mark.parametrize("answer", ["", "  \n", "</s>"])
def test_an_empty_answer_has_nothing_to_train_on(make_encoder, answer):
    assert make_encoder().encode(Example("a:", answer)).num_trained == 0
    assert make_encoder(train_on_prompt=True).encode(Example("a:", answer)).num_trained == 0


def test_training_on_the_prompt_too(make_encoder):
    encoded = make_encoder(train_on_prompt=True).encode(PAIR)
    assert encoded.labels == encoded.input_ids
    assert encoded.num_trained == len(encoded.input_ids)


def test_a_tokenizer_that_prepends_a_space_does_not_double_it(spaced_tokenizer):
    encoder = ExampleEncoder(spaced_tokenizer, 100)
    for answer in (" It", "It"):
        encoded = encoder.encode(Example("Answer:", answer))
        assert encoded.input_ids == [*spaced_tokenizer("Answer: It")["input_ids"], spaced_tokenizer.eos_token_id]


def test_a_tokenizer_without_end_of_text_token_is_refused(text_tokenizer):
    encoder = ExampleEncoder(text_tokenizer(eos=False), 100)
    with pytest.raises(ModelError, match="eos_token"):
        encoder.encode(PAIR)
    assert encoder.stop_token_ids == ()


def test_a_too_small_max_length_is_refused(text_tokenizer):
    with pytest.raises(DataError, match=r"sft\.max_length: 4 leaves no room; set 8"):
        ExampleEncoder(text_tokenizer(), 4)


def test_a_long_prompt_loses_its_middle_and_keeps_the_answer(make_encoder):
    encoder = make_encoder(max_length=40, bos=True)
    example = Example("Head " + "x" * 1000 + " tail:", " the answer")
    encoded = encoder.encode(example)
    assert len(encoded.input_ids) == 40
    assert trained_text(encoder, encoded) == " the answer</s>"
    text = encoder.tokenizer.decode(encoded.input_ids)
    assert text.startswith("<s>Head x")
    assert text.endswith("x tail: the answer</s>")
    assert (encoded.prompt_cut, encoded.answer_cut, encoded.full_length) == (1024 - 40, 0, 1024)
    assert encoder.encode_prompt(example, max_length=20)[:5] == encoded.input_ids[:5]
    assert len(encoder.encode_prompt(example, max_length=20)) == 20
    assert len(encoder.encode_prompt(example)) == 1012


def test_a_long_answer_is_dropped_unless_truncation_is_requested(make_encoder):
    example = Example("p" * 30, "a" * 100)
    assert make_encoder(max_length=40).encode(example).too_long
    encoder = make_encoder(max_length=40, truncation="cut_answer")
    encoded = encoder.encode(example)
    assert encoder.tokenizer.decode(encoded.input_ids) == "p" * 10 + "a" * 30
    assert trained_text(encoder, encoded) == "a" * 30
    assert (encoded.prompt_cut, encoded.answer_cut, encoded.too_long) == (20, 71, False)
    assert not make_encoder(max_length=40).encode(Example("p" * 30, "a" * 29)).too_long


def test_a_long_text_is_truncated_or_split(make_encoder):
    example = Example(answer="".join(f"{n} " for n in range(40)) + "\u4f60")
    encoded = make_encoder(max_length=40, bos=True).encode(example)
    assert (len(encoded.input_ids), encoded.answer_cut > 0, encoded.too_long) == (40, True, False)
    for bos in (True, False):
        for text in (example.answer, f"<s>{example.answer}</s>"):
            encoder = make_encoder(max_length=40, bos=bos, split_long=True)
            [pieces] = encoder.encode_many([Example(answer=text)])
            opening = encoder.texts.opening
            assert all(each.input_ids[: len(opening)] == opening for each in pieces)
            inner = [index for each in pieces for index in each.input_ids[len(opening) :]]
            assert (
                inner == make_encoder(max_length=1000, bos=bos).encode(Example(answer=text)).input_ids[len(opening) :]
            )
            assert {len(each.input_ids) for each in pieces} <= {36, 37, 38, 39, 40}, "no piece is a short remainder"
            for each in pieces:
                assert set(each.labels) <= {MASKED, *each.input_ids}
                assert each.num_trained == sum(label != MASKED for label in each.labels)
    assert not make_encoder(max_length=40, split_long=True).encode(Example("p" * 10, "a" * 100)).notes


@pytest.mark.parametrize("end", ["</s>", "</s>\n", "<|im_end|>", "<|im_end|>\n"])
def test_bos_and_eos_in_the_text_are_not_doubled(make_encoder, end):
    for bos in (True, False):
        encoder = make_encoder("chatml", bos=bos)
        text = f"<s>All of it.{end}"
        assert encoder.tokenizer.decode(encoder.encode(Example(answer=text)).input_ids) == text
        pair = encoder.encode(Example("<s>Q: ", f"It.{end}"))
        assert encoder.tokenizer.decode(pair.input_ids) == f"<s>Q: It.{end}"
        assert trained_text(encoder, pair) == f"It.{end}"


@pytest.mark.parametrize("end", ["</s>", "<|im_end|>\n"])
def test_an_end_token_in_the_text_is_not_doubled_in_a_chat(make_encoder, end):
    encoder = make_encoder("chatml", as_chat=True)
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": f"It.{end}"}]
    for example in (Example("Q", f" It.{end}"), Example(messages=tuple(turns))):
        assert trained_text(encoder, encoder.encode(example)) == "It.<|im_end|>"


@pytest.mark.parametrize("truncation", ["drop", "error"])
def test_without_truncation_long_rows_are_marked(make_encoder, truncation):
    encoder = make_encoder(max_length=40, truncation=truncation)
    assert encoder.encode(Example("p" * 100, "a")).too_long
    assert not encoder.encode(Example("p" * 38, "a")).too_long


def test_truncation_settings_saved_in_the_tokenizer_are_ignored(make_encoder):
    encoder = make_encoder()
    expected = encoder.encode(PAIR).input_ids
    encoder.tokenizer([PAIR.prompt, "a"], truncation=True, max_length=3, padding=True)
    assert encoder.encode(PAIR).input_ids == expected


def test_batch_encoding_equals_encoding_one_by_one(make_encoder):
    encoder = make_encoder("chatml", bos=True)
    chat = Example(messages=({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}))
    examples = [PAIR, chat, Example(answer="Text"), Example("p", ""), PAIR]
    assert encoder.encode_many(examples) == [[encoder.encode(example)] for example in examples]
    assert encoder.encode_many([]) == []


def test_a_megabyte_row_is_truncated_like_any_other(make_encoder):
    encoded = make_encoder(max_length=64).encode(Example("word " * 200_000, " yes"))
    assert len(encoded.input_ids) == 64
    assert encoded.num_trained == 5


@pytest.mark.parametrize("name", ["qwen2.5", "gpt2"])
def test_the_fast_path_gives_the_same_tokens_as_the_tokenizer(name):
    if not (REAL_TOKENIZERS / name).is_dir():
        pytest.skip(f"the real tokenizer {name} is missing (LORA_NS_REAL_DATA)")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REAL_TOKENIZERS / name)
    encoder = ExampleEncoder(tokenizer, 512)
    example = Example("Question: caf\u00e9 \u4f60\u597d, 1,234?\nAnswer:", " It's <<48/2=24>>24\n#### 24")
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (example.prompt, example.answer)]
    encoded = encoder.encode(example)
    assert encoded.input_ids == [*parts[0], *parts[1], tokenizer.eos_token_id]
    assert encoded.labels == [MASKED] * len(parts[0]) + [*parts[1], tokenizer.eos_token_id]
    assert encoded.input_ids[:-1] == tokenizer(example.prompt + example.answer)["input_ids"]


@pytest.mark.parametrize("token", ["</s>", "<|im_end|>"])
@pytest.mark.parametrize("as_chat", [False, True])
def test_special_tokens_in_a_rows_text_are_kept_or_escaped(make_encoder, token, as_chat):
    example = Example(f"Say {token} now:", f" {token}{token}. Said.", question="", user_turn=f"Say {token}")
    keep, escape = (make_encoder("chatml", as_chat=as_chat, escape_special=each) for each in (False, True))
    kept, escaped = keep.encode(example), escape.encode(example)
    assert keep.tokenizer.decode(kept.input_ids) == keep.tokenizer.decode(escaped.input_ids), "the text is the same"
    index = keep.tokenizer.convert_tokens_to_ids(token)
    plain = Example(*(text.replace(token, "") for text in (example.prompt, example.answer, "", example.user_turn)))
    own = keep.encode(plain).input_ids.count(index)
    assert (kept.input_ids.count(index), escaped.input_ids.count(index)) == (own + 3, own)
    asked = escape.encode_prompt(example)
    assert escaped.input_ids[: len(asked)] == asked, "the generation prompt equals the training prompt"
    assert escape.encode(plain) == keep.encode(plain)


def test_an_escaped_token_gets_no_space_from_a_tokenizer_that_adds_spaces(spaced_tokenizer):
    encoder = ExampleEncoder(spaced_tokenizer, 100, escape_special=True)
    ids = encoder.encode(Example("Say </s> and <s>!", "no")).input_ids
    characters = "\u2581".join(("", "Say", "</s>", "and", "<s>!"))
    expected = [spaced_tokenizer.convert_tokens_to_ids(each) for each in characters]
    assert ids[1 : len(expected) + 1] == expected
    assert encoder.tokenizer.eos_token_id not in ids[:-1]


def test_a_document_with_escaped_special_tokens_is_truncated(make_encoder):
    document = "a</s>b" * 20
    example = Example(f"Read {document} and tell.", " Yes.", context=document)
    encoded = make_encoder(max_length=60, escape_special=True).encode(example)
    assert not encoded.too_long
    assert encoded.input_ids.count(1) == 1, "only the end of the answer"
