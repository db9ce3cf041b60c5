"""Hashes of evaluation work: equal for equal rows, computed without holding all rows as text."""

from __future__ import annotations

import hashlib
import json

import pytest

from utils.evaluation.identity import hash_json, hash_rows
from utils.evaluation.prompts import TokenRows


@pytest.mark.parametrize("prompts", [[], [[1, 2]], [[1, 2], [], [3]]])
def test_equal_rows_hash_equally(prompts: list[list[int]]) -> None:
    references = ["a", {"correct": ["b"], "answers": []}]
    assert hash_rows(TokenRows(prompts), references) == hash_json([prompts, references])
    assert hash_rows(prompts, references) == hash_json([prompts, references])
    assert hash_rows([*prompts, [4]], references) != hash_rows(prompts, references)
    assert hash_rows(prompts, references[:1]) != hash_rows(prompts, references)


def test_the_order_of_keys_does_not_count() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json([1]) == hashlib.sha256(json.dumps([1]).encode()).hexdigest()[:16]
