"""Tokenising: truncation is counted, no row is empty, and the cache is reused."""

from __future__ import annotations

import pytest
from datasets import Dataset

from utils.core.cache_folder import cache_folder
from utils.core.errors import DataError
from utils.data.tokenizing import encode_texts, tokenize_rows


def _rows(*texts, other=None):
    return Dataset.from_dict({"text": list(texts)} | ({"other": list(other)} if other else {}))


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_truncated_rows_are_counted_exactly(load_tokenizer_of, family):
    tokenizer = load_tokenizer_of(family)
    special = tokenizer.num_special_tokens_to_add()
    texts = [" ".join(["w1"] * number) for number in range(1, 12)]
    tokens = tokenize_rows(_rows(*texts), tokenizer, ("text",), 8)
    whole = [number + special for number in range(1, 12)]
    assert tokens["length"][:] == [min(length, 8) for length in whole]
    assert tokens["truncated"][:] == [length > 8 for length in whole]


def test_the_longer_of_two_texts_is_truncated_first(load_tokenizer_of):
    tokenizer = load_tokenizer_of("bert")
    rows = _rows("w1 w2", "w1 w2", other=["w3 w4 w5 w6 w7 w8", "w3"])
    tokens = tokenize_rows(rows, tokenizer, ("text", "other"), 9)
    assert tokens["truncated"][:] == [True, False]
    first = tokenizer.convert_ids_to_tokens(tokens[0]["input_ids"])
    assert first == ["[CLS]", "w1", "w2", "[SEP]", "w3", "w4", "w5", "w6", "[SEP]"]


@pytest.mark.parametrize(("max_length", "columns"), [(1, ("text",)), (2, ("text",)), (3, ("text", "other"))])
def test_a_max_length_without_space_for_text_is_refused(load_tokenizer_of, max_length, columns):
    rows = _rows("w1", other=["w2"])
    with pytest.raises(DataError, match=r"dataset\.max_length: .* leaves no room"):
        tokenize_rows(rows, load_tokenizer_of("bert"), columns, max_length)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "qwen2"])
def test_an_empty_text_still_has_a_token(load_tokenizer_of, family):
    encoded, truncated = encode_texts([["", "good"]], load_tokenizer_of(family), 8)
    assert all(encoded["input_ids"])
    assert [len(ids) for ids in encoded["attention_mask"]] == [len(ids) for ids in encoded["input_ids"]]
    assert encoded["attention_mask"][0][0] == 1
    assert truncated == [False, False]


def test_the_cache_is_hit_regardless_of_earlier_tokenising(load_tokenizer_of):
    tokenizer = load_tokenizer_of("bert")
    rows = _rows("w1 w2 good", "bad w40")
    files = lambda: set((cache_folder() / "tokenised").glob("*.arrow"))
    tokenize_rows(rows, tokenizer, ("text",), 16)
    before = files()
    tokenizer("w1 w2 w3", truncation=True, max_length=3)  # leaves truncation enabled in the tokenizer
    tokenize_rows(rows, tokenizer, ("text",), 16)
    assert files() == before
    assert len(tokenize_rows(rows, tokenizer, ("text",), 3)[0]["input_ids"]) == 3
    assert len(files()) == len(before) + 1


@pytest.mark.parametrize("damage", ["empty", "cut", "words"])
def test_damaged_token_caches_are_rebuilt(load_tokenizer_of, monkeypatch, tmp_path, caplog, damage):
    monkeypatch.setenv("LORA_NS_CACHE", str(tmp_path))
    tokenizer, rows = load_tokenizer_of("bert"), _rows("w1 w2 good", "bad w40")
    expected = tokenize_rows(rows, tokenizer, ("text",), 16).to_dict()
    [file] = (tmp_path / "tokenised").glob("*.arrow")
    whole = file.read_bytes()
    file.unlink()  # open readers keep their data
    file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "words": b"no tokens"}[damage])
    assert tokenize_rows(rows, tokenizer, ("text",), 16).to_dict() == expected
    assert f"{file}: damaged; its rows are made into tokens again" in caplog.text
    assert file.read_bytes() == whole


def test_labels_are_part_of_the_caches_fingerprint(load_tokenizer_of):
    tokenizer = load_tokenizer_of("bert")
    texts = {"text": ["w1 w9", "w2 w9"]}
    first = tokenize_rows(Dataset.from_dict({**texts, "labels": [0, 1]}), tokenizer, ("text",), 16)
    second = tokenize_rows(Dataset.from_dict({**texts, "labels": [1, 0]}), tokenizer, ("text",), 16)
    assert (first["labels"][:], second["labels"][:]) == ([0, 1], [1, 0])
