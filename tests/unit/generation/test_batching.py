"""Batches keep to a number of rows and of tokens, whatever the lengths, and depend on nothing else."""

from __future__ import annotations

import random

import pytest

from utils.generation.batching import Batching

LENGTHS = [random.Random(3).choice([1, 2, 7, 30, 100, 900, 5000]) + row % 5 for row in range(300)]


@pytest.mark.parametrize("max_tokens", [1, 500, 16_384])
@pytest.mark.parametrize("max_rows", [1, 4, 64])
def test_every_row_is_in_one_batch_within_both_limits(max_tokens: int, max_rows: int) -> None:
    batching = Batching(max_rows, max_tokens, max_new_tokens=32)
    batches = list(batching.plan(LENGTHS, range(300)))
    assert sorted(row for batch in batches for row in batch) == list(range(300))
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        widest = max(LENGTHS[row] for row in batch)
        assert widest == LENGTHS[batch[0]]
        assert len(batch) == 1 or (len(batch) <= max_rows and len(batch) * (widest + 32) <= max_tokens)
        is_full = len(batch) == max_rows or (len(batch) + 1) * (widest + 32) > max_tokens
        assert is_full or not following, "one more would have fitted"


def test_the_plan_depends_on_lengths_and_not_on_the_order_of_the_rows() -> None:
    batching = Batching(8, 2000, 32)
    rows = list(range(300))
    random.Random(1).shuffle(rows)
    assert list(batching.plan(LENGTHS, rows)) == list(batching.plan(LENGTHS, range(300)))
    some = list(batching.plan(LENGTHS, range(0, 300, 7)))
    assert sorted(row for batch in some for row in batch) == list(range(0, 300, 7))
    assert list(batching.plan([], [])) == []


def test_rows_with_less_room_go_only_with_their_equals() -> None:
    batching = Batching(8, 10_000, max_new_tokens=10, num_positions=32)
    assert [batching.count_space(length) for length in (31, 25, 22, 3)] == [1, 7, 10, 10]
    assert list(batching.plan([31, 25, 25, 22, 3], range(5))) == [[0], [1, 2], [3, 4]]
    alone = Batching(8, 10_000, 10, takes_padding=False)
    assert list(alone.plan([5, 4, 5, 4, 4], range(5))) == [[0, 2], [1, 3, 4]]
