"""Batches respect a limit of rows and of tokens, at any lengths, and depend on nothing else."""

from __future__ import annotations

import random

import pytest

from utils.generation.batching import Batching

LENGTHS = [random.Random(3).choice([1, 2, 7, 30, 100, 900, 5000]) + row % 5 for row in range(300)]


@pytest.mark.parametrize("max_tokens", [1, 500, 16_384])
@pytest.mark.parametrize("max_rows", [1, 4, 64])
def test_every_row_is_in_one_batch_within_both_limits(max_tokens: int, max_rows: int) -> None:
    batching = Batching(max_tokens, max_rows, 32)
    batches = list(batching.plan(LENGTHS))
    assert sorted(row for batch in batches for row in batch) == list(range(300))
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        widest = max(LENGTHS[row] for row in batch)
        assert widest == LENGTHS[batch[0]]
        assert len(batch) == 1 or (len(batch) <= max_rows and len(batch) * (widest + 32) <= max_tokens)
        is_full = len(batch) == max_rows or (len(batch) + 1) * (widest + 32) > max_tokens
        assert is_full or not following, "one more would have fitted"


def test_equal_lengths_keep_row_order_and_no_rows_give_no_batch() -> None:
    assert list(Batching(10_000).plan([3, 5, 3, 5, 3])) == [[1, 3, 0, 2, 4]]
    assert list(Batching(2000, 8, 32).plan([])) == []


def test_rows_with_fewer_new_tokens_are_batched_separately() -> None:
    batching = Batching(10_000, 8, 10, num_positions=32)
    assert [batching.count_space(length) for length in (31, 25, 22, 3)] == [1, 7, 10, 10]
    assert list(batching.plan([31, 25, 25, 22, 3])) == [[0], [1, 2], [3, 4]]
    alone = Batching(10_000, 8, 10, takes_padding=False)
    assert list(alone.plan([5, 4, 5, 4, 4])) == [[0, 2], [1, 3, 4]]
