"""Truncation removes tokens from the document's middle only: question, instructions and answer always stay."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from utils.core.errors import DataError
from utils.data.dataset import Example
from utils.data.encoding import MASKED, ExampleEncoder

REAL_TOKENIZERS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "tokenizers"
BASE = Path(__file__).parents[3] / "examples" / "quickstart" / "base"
INTRO, ASKED, ANSWER = "Read this.\n\n", "\n\nQuestion: who came? (say it)\nAnswer:", " Ann came, it is said."
WIDE = "\u4f1a\u8bae\u8bb0\u5f55\uff0c\U0001f600 \u00e9t\u00e9 "


def make_example(num_words: int, seed: int = 0, wide: bool = True, **keys) -> Example:
    draw = random.Random(seed)
    words = ["the meeting ", "Ann: ", "  two\n", "budget, ", "x" * 9 + " ", *([WIDE] if wide else [])]
    context = "".join(draw.choice(words) for _ in range(num_words)).strip() or "the"
    return Example(INTRO + context + ASKED, ANSWER, "who came?", context=context, **keys)


def load_byt5():
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def load_real(name):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)


def check(encoder: ExampleEncoder, example: Example, has_all_characters: bool = True) -> bool:
    """Assert that question, instructions and answer are present; return whether the row is used."""
    encoded = encoder.encode(example)
    whole = ExampleEncoder(
        encoder.tokenizer, 100_000, as_chat=encoder.as_chat, system_prompt=encoder.system_prompt
    ).encode(example)
    assert encoded.full_length == whole.full_length
    if whole.full_length <= encoder.max_length:
        assert encoded == whole, "rows that fit are unchanged"
        return True
    if encoded.too_long:
        return False
    ids = encoded.input_ids
    assert len(ids) <= encoder.max_length
    assert encoded.prompt_cut == len(whole.input_ids) - len(ids) > 0
    assert encoded.answer_cut == 0
    answer = ids[len(ids) - encoded.num_trained :]
    assert answer == whole.input_ids[len(whole.input_ids) - whole.num_trained :]
    assert 0 < encoded.num_trained == sum(label != MASKED for label in encoded.labels)
    head = _count_common(ids, whole.input_ids)
    assert head + _count_common(ids[::-1], whole.input_ids[::-1]) >= len(ids), "exactly one span is missing"
    if has_all_characters:
        text = encoder.tokenizer.decode(ids)
        assert INTRO.strip() in text
        assert ASKED.strip() in text
        assert ANSWER.strip() in text
        assert "\ufffd" not in text, "no character is torn"
    return True


def _count_common(one: list[int], other: list[int]) -> int:
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


@pytest.mark.parametrize("template", [None, "chatml", "llama3"])
@pytest.mark.parametrize("bos", [False, True])
def test_question_and_answer_stay_at_every_length(make_encoder, template, bos):
    least = None
    for length in range(60, 400, 13):
        for number, num_words in enumerate((0, 3, 12, 60)):
            encoder = make_encoder(template, max_length=length, bos=bos, as_chat=template is not None)
            if check(encoder, make_example(num_words, number)) and num_words == 60:
                least = least or length
    assert least is not None
    assert least < 250, "a document of any length fits once the rest does"


def test_question_and_answer_stay_with_a_real_vocabulary():
    tokenizer = load_real(BASE)
    used = [
        check(ExampleEncoder(tokenizer, length), make_example(80, length, wide=False), has_all_characters=False)
        for length in range(40, 240, 10)
    ]
    assert used[-1]
    assert not used[0]
    assert used == sorted(used), "what fits in a length fits in every longer one"


def test_question_and_answer_stay_without_token_offsets():
    tokenizer = load_byt5()
    used = [
        check(ExampleEncoder(tokenizer, length), make_example(40, length, wide=False)) for length in range(70, 300, 10)
    ]
    assert used[-1]
    assert not used[0]


def test_question_and_answer_stay_where_a_space_is_prepended(spaced_tokenizer):
    encoder = ExampleEncoder(spaced_tokenizer, 130)
    assert check(encoder, make_example(50, wide=False))


@pytest.mark.parametrize("name", ["gpt2", "qwen2.5"])
@pytest.mark.parametrize("as_chat", [False, True])
def test_question_and_answer_stay_with_real_tokenizers(name, as_chat, chat_templates):
    if not REAL_TOKENIZERS.is_dir():
        pytest.skip("real tokenizers are missing (LORA_NS_REAL_DATA)")
    tokenizer = load_real(REAL_TOKENIZERS / name)
    if as_chat and name == "gpt2":
        pytest.skip("the tokenizer has no chat tokens")
    tokenizer.chat_template = tokenizer.chat_template or chat_templates["chatml"]
    for length in (48, 64, 100, 200):
        for seed in range(6):
            used = check(ExampleEncoder(tokenizer, length, as_chat=as_chat), make_example(90, seed))
            assert used or length < 64


@pytest.mark.skipif(not REAL_TOKENIZERS.is_dir(), reason="real tokenizers are missing (LORA_NS_REAL_DATA)")
def test_a_tokenizer_that_rewrites_its_text_keeps_the_question_too():
    tokenizer = load_real(REAL_TOKENIZERS / "bert-base-uncased")
    tokenizer.eos_token = "[SEP]"
    encoder = ExampleEncoder(tokenizer, 60)
    encoded = encoder.encode(make_example(90, wide=False))
    text = tokenizer.decode(encoded.input_ids)
    assert len(encoded.input_ids) == 60
    assert text.startswith("read this.")
    assert "question : who came? ( say it ) answer : ann came, it is said. [SEP]" in text.replace(" ?", "?")


def test_a_system_turn_stays(make_encoder):
    encoder = make_encoder("chatml", max_length=220, as_chat=True, system_prompt="Be brief.")
    assert check(encoder, make_example(90))
    assert "Be brief." in encoder.tokenizer.decode(encoder.encode(make_example(90)).input_ids)


def test_a_plain_row_is_not_formatted_as_chat(make_encoder):
    encoder = make_encoder("chatml", as_chat=True)
    plain = make_example(3, plain=True)
    assert encoder.encode(plain).input_ids == make_encoder().encode(make_example(3)).input_ids
    assert encoder.encode_prompt(plain) == make_encoder().encode_prompt(plain)


def test_a_row_whose_question_and_answer_do_not_fit_is_dropped_and_counted(tmp_path, prepare_set, make_encoder):
    import json

    rows = [
        {"input": "who?" * (40 if number == 30 else 1), "context": "Ann came. " * 20, "answers": ["Ann"],
         "dataset": "repobench-p", "_id": str(number)}
        for number in range(40)
    ]  # fmt: skip
    for row in rows:
        row["context"] += row["_id"]
    file = tmp_path / "repobench-p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = make_encoder(max_length=150)
    data = prepare_set("longbench", file, encoder=encoder, subset="repobench-p", validation_size=0, max_empty_share=0.1)
    report = data.reports["train"]
    assert (report.rows_used, report.too_long_rows, report.prompts_cut) == (39, 1, 39)
    assert report.answers_cut == 0
    with pytest.raises(DataError, match=r"longer than sft\.max_length .* even without the middle") as caught:
        prepare_set("longbench", file, encoder=encoder, subset="repobench-p", validation_size=0, max_empty_share=0)
    assert "(0) allows; raise sft.max_length, or dataset.max_empty_share to leave them out" in str(caught.value)
    assert "drop" not in str(caught.value), "that would drop every row with a document"


def test_a_generation_prompt_is_cut_as_in_training(make_encoder):
    example = make_example(60)
    encoder = make_encoder(max_length=200)
    ids = encoder.encode_prompt(example, 150)
    assert 140 < len(ids) <= 150
    text = encoder.tokenizer.decode(ids)
    assert text.startswith(INTRO)
    assert text.endswith(ASKED)
    assert len(encoder.encode_prompt(example, 20)) == 20, "if even the question does not fit, its middle is cut too"


# -- official truncation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [40, 41, 75, 100_000])
@pytest.mark.parametrize("bos", [False, True])
def test_official_truncation_keeps_both_ends_of_the_prompt(make_encoder, length, bos):
    """The steps of LongBench's pred.py, by the tokenizer's own calls."""
    encoder = make_encoder(bos=bos)
    tokenizer, example = encoder.tokenizer, make_example(30, wide=False)
    prompt, ids = example.prompt, tokenizer(example.prompt)["input_ids"]
    if len(ids) > length:
        half = int(length / 2)
        prompt = "".join(tokenizer.decode(each, skip_special_tokens=True) for each in (ids[:half], ids[-half:]))
    assert encoder.encode_official(example, length, as_chat=False) == tokenizer(prompt)["input_ids"]
    assert encoder.encode_official(example, None, as_chat=False) == tokenizer(example.prompt)["input_ids"]


def test_official_truncation_wraps_the_cut_prompt_into_one_turn(make_encoder):
    encoder = make_encoder("llama3", bos=True, as_chat=True, system_prompt="Be brief.")
    example = make_example(60)
    text = encoder.tokenizer.decode(encoder.encode_official(example, 100, as_chat=True))
    assert text.count("<s>") == 1, "the template renders it"
    assert text.startswith("<s><|head|>user<|end_head|>\n\nRead this.")
    assert text.endswith(ASKED + "<|eot|><|head|>assistant<|end_head|>\n\n")
    assert "Be brief." not in text
    plain = make_example(60, plain=True)
    assert encoder.encode_official(plain, 100, True) == encoder.encode_official(example, 100, False)


def test_official_prompts_disable_thinking(text_tokenizer):
    tokenizer = text_tokenizer("chatml")
    tokenizer.chat_template += "{% if enable_thinking is false %}{{ '<think></think>' }}{% endif %}"
    ids = ExampleEncoder(tokenizer, 400, as_chat=True).encode_official(make_example(3), None, True)
    assert tokenizer.decode(ids).endswith("assistant\n<think></think>")
