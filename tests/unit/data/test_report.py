"""Characters that a tokenizer loses are reported; those that survive a round trip are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from utils.data.report import count_unwritable, show_characters

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"


def _build(vocabulary, unknown="<unk>"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate([unknown, *vocabulary])}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown)


def test_lost_characters_are_counted_by_text():
    tokenizer = _build(["\u2581", *"abc 123"])
    assert count_unwritable(["a # 1", "b#2+", "c 3"], tokenizer) == {"#": 2, "+": 1}


def test_encoders_may_see_a_normalised_form():
    from tokenizers import normalizers

    tokenizer = _build(["\u2581", *"ae"])
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    texts = ["A \u00e9 \u597d", "\u00c9\u00ad", "b"]
    lost = count_unwritable(texts, tokenizer)
    assert lost == dict.fromkeys("A\u00c9\u00e9b\u597d\u00ad", 1)
    assert show_characters(lost) == "A b U+00AD \u00c9 \u00e9 \u597d (the first in 1 rows)"
    assert count_unwritable(texts, tokenizer, to_read=True) == {"b": 1, "\u597d": 1}


def test_words_without_their_own_tokens_are_not_lost(load_tokenizer_of):
    assert count_unwritable(["good w1 w2"], load_tokenizer_of("llama")) == {}
    assert count_unwritable(["good %"], load_tokenizer_of("llama")) == {"%": 1}


def test_a_byte_tokenizer_loses_nothing(load_tokenizer_of):
    assert count_unwritable(["\u4f60\u597d #### 18 \U0001f600 caf\u00e9"], load_tokenizer_of("qwen2")) == {}


def test_the_report_names_lost_characters(make_config, tmp_path, caplog):
    from utils.data.dataset import load_dataset_plugin
    from utils.data.encoding import ExampleEncoder
    from utils.data.instruction import prepare_instructions

    caplog.set_level(logging.INFO)
    room = load_dataset_plugin("gsm8k")
    section = room.Config(path=str(QUICKSTART / "arithmetic"), max_train_samples=20)
    tokenizer = _build(["\u2581", *"abcdefghijklmnopqrstuvwxyzQAWHTIS0123456789.,?:'-\n", "</s>"])
    tokenizer.eos_token = "</s>"
    data = prepare_instructions(room.describe_instructions(section), section, ExampleEncoder(tokenizer, 512), 42)
    assert data.reports["train"].unwritable["#"] == 20
    assert "the tokenizer cannot write these characters" in caplog.text


@pytest.mark.parametrize("text", ["", "   \n"])
def test_empty_texts_lose_nothing(text, load_tokenizer_of):
    assert count_unwritable([text], load_tokenizer_of("llama")) == {}
