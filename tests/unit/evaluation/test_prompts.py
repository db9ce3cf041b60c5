"""Prompts lose their middle only if they must, an answer always fits, and many prompts take little memory."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest

from utils.core.errors import DataError
from utils.data.dataset import Example
from utils.data.encoding import ExampleEncoder
from utils.evaluation.prompts import PromptLimits, TokenRows, describe_prompt, encode_prompts, find_official_limit
from utils.evaluation.sets import EvaluationSet

TEMPLATE = (
    "{% for turn in messages %}Question: {{ turn.content }}\nAnswer:{% if turn.role == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} The{% endif %}"
)
TEXT = "What was said: " + " ".join(f"Tom has {number} books and gives {number + 1} away." for number in range(60))


@pytest.fixture
def chat_encoder(quickstart_model: tuple[Any, Any]) -> ExampleEncoder:
    tokenizer = copy.deepcopy(quickstart_model[1])
    tokenizer.chat_template = TEMPLATE
    return ExampleEncoder(tokenizer, 256, as_chat=True)


@pytest.mark.parametrize(
    ("window", "max_new_tokens", "limit"),
    [
        (4096, 128, 3500), (8192, 512, 7500), (16_384, 32, 15_500), (32_768, 512, 31_500), (131_072, 512, 127_500),
        (4096, 900, 3196), (4096, 596, 3500), (2048, 512, 1536), (256, 512, 128), (1, 5, 1),
    ],
)  # fmt: skip
def test_official_lengths(window: int, max_new_tokens: int, limit: int) -> None:
    assert find_official_limit(window, max_new_tokens) == limit


def test_the_users_limit_applies_within_the_context() -> None:
    assert PromptLimits(32).target is None
    assert PromptLimits(32, asked=50).target == 50
    assert PromptLimits(32, 256).target == 224
    assert PromptLimits(32, 256, asked=50).target == 50
    assert PromptLimits(32, 256, asked=250).target == 224
    assert PromptLimits(32, 8192, official=True).target == 7500
    assert PromptLimits(32, 8192, asked=8000, official=True).target == 8000
    assert PromptLimits(32, 8192, asked=8190, official=True).target == 8160


def test_prompts_take_four_bytes_per_token() -> None:
    lists = [[5, 6, 7], [], [100_000], list(range(1000))]
    rows = TokenRows(iter(lists))
    assert rows == lists
    assert lists == rows
    assert rows != lists[:3]
    assert (rows[0], rows[-1][:2], rows[1:3], len(rows)) == ([5, 6, 7], [0, 1], [[], [100_000]], 4)
    assert [*rows] == lists
    with pytest.raises(IndexError):
        rows[4]
    many = TokenRows(range(2000) for _ in range(100))
    assert sys.getsizeof(many._ids) < 1.2 * 4 * 200_000
    assert list(TokenRows([])) == []


@pytest.mark.parametrize("limit", [20, 21, 60])
def test_official_truncation_decodes_both_halves_and_encodes_again(encoder: ExampleEncoder, limit: int) -> None:
    ids = encoder.tokenizer(TEXT)["input_ids"]
    halves = [ids[: limit // 2], ids[len(ids) - limit // 2 :]]
    text = "".join(encoder.tokenizer.decode(half, skip_special_tokens=True) for half in halves)
    limits = PromptLimits(8, None, limit, official=True)
    short = Example("Short.")
    found = encode_prompts(encoder, [Example(TEXT), short], ["a", "b"], limits, as_chat=False)
    assert found.rows == [encoder.tokenizer(text)["input_ids"], encoder.tokenizer("Short.")["input_ids"]]
    assert found.num_cut == 1


@pytest.mark.parametrize("window", [40, 64, 100, 256])
def test_an_answer_fits_after_the_chat_templates_tokens(chat_encoder: ExampleEncoder, window: int) -> None:
    limits = PromptLimits(16, window, official=True)
    found = encode_prompts(chat_encoder, [Example(TEXT), Example("Why?")], ["a", "b"], limits, as_chat=True)
    assert found.num_cut == 1
    assert len(found.rows[0]) <= window - 16
    assert len(found.rows[0]) > window - 16 - 12, "no more than needed is cut"
    texts = [chat_encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in found.rows]
    assert all(text.startswith("Question: W") and text.endswith("Answer: The") for text in texts)
    plain = encode_prompts(chat_encoder, [Example("Why?")], ["b"], limits, as_chat=False)
    assert chat_encoder.tokenizer.decode(plain.rows[0], skip_special_tokens=True).strip() == "Why?"


def test_a_prompt_is_described_before_it_is_cut() -> None:
    assert describe_prompt(Example("p", user_turn="u"), as_chat=True) == "u"
    assert describe_prompt(Example("p", user_turn="u"), as_chat=False) == "p"
    assert describe_prompt(Example("p", user_turn="u", plain=True), as_chat=True) == "p"
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    assert describe_prompt(Example(messages=turns), as_chat=True) == [turns[0]]


def test_rows_the_template_refuses_are_named(chat_encoder: ExampleEncoder) -> None:
    chat_encoder.tokenizer.chat_template = "{{ raise_exception('no') }}"
    encoder = ExampleEncoder(chat_encoder.tokenizer, 256, as_chat=True)
    with pytest.raises(DataError, match=r"rows.jsonl:7: .*no"):
        encode_prompts(encoder, [Example("Why?")], ["rows.jsonl:7"], PromptLimits(8), as_chat=True)


def test_prompts_that_need_truncation_are_detected() -> None:
    def build(length: int, **more: Any) -> EvaluationSet:
        return EvaluationSet(
            label="x", prompts=TokenRows([[1] * length]), references=["a"], ids=["1"], metrics=("rouge_l",), stop=(),
            protocol="p", num_total=1, prompt_hash="h", fingerprint="f", **more,
        )  # fmt: skip

    assert not build(5000).needs_cutting(None, 10)
    assert build(5000).needs_cutting(4096, 10)
    assert not build(4000).needs_cutting(4096, 10)
    assert build(4000).needs_cutting(4096, 100)
    assert build(4000, max_new_tokens=100).needs_cutting(4096, 10)
    assert build(4000, official_truncation=True).needs_cutting(4096, 10)
    assert not build(4000, official_truncation=True, prompt_limit=4000).needs_cutting(4096, 10)
