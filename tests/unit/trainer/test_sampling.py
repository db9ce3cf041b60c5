"""Row order: every row once, similar lengths together, the longest first, determined by seed and epoch."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from utils.trainer.sampling import SeededOrder


def _lengths(number, seed=0):
    draw = random.Random(seed)
    return [draw.randint(3, 128) for _ in range(number)]


@pytest.mark.parametrize("grouped", [True, False])
def test_every_row_comes_exactly_once(grouped):
    for rows in (1, 2, 7, 8, 9, 31, 200, 1001):
        order = SeededOrder(rows, 42, _lengths(rows) if grouped else None, 8)
        assert sorted(order) == list(range(rows)) == sorted(order)
        assert len(order) == rows


def test_the_order_depends_only_on_seed_and_epoch():
    lengths = _lengths(100)
    first = list(SeededOrder(100, 42, lengths, 8))
    torch.manual_seed(1)
    torch.rand(1000)
    random.seed(5)
    again = SeededOrder(100, 42, lengths, 8)
    assert list(again) == first
    again.set_epoch(1)
    assert list(again) != first
    assert list(SeededOrder(100, 43, lengths, 8)) != first


@pytest.mark.parametrize("rows", [5, 9, 203, 1001])
def test_the_longest_row_is_in_the_first_batch(rows):
    """Even if drawn into the incomplete last batch: memory then runs out at once or never."""
    for seed in range(20):
        lengths = _lengths(rows, seed)
        lengths[seed % rows] = 500
        assert seed % rows in list(SeededOrder(rows, seed, lengths, 8))[:8], seed


def test_batches_hold_rows_of_similar_length():
    lengths = _lengths(1000)

    def padded(order):
        order = list(order)
        return sum(max(lengths[row] for row in order[at : at + 8]) * 8 for at in range(0, 1000, 8))

    real = sum(lengths)
    assert padded(SeededOrder(1000, 42, lengths, 8)) < 1.1 * real
    assert padded(SeededOrder(1000, 42)) > 1.5 * real


def test_batches_are_not_sorted_within_an_epoch():
    lengths = _lengths(1000)
    order = list(SeededOrder(1000, 42, lengths, 8))
    longest = [max(lengths[row] for row in order[at : at + 8]) for at in range(8, 1000, 8)]
    falls = sum(after < before for before, after in itertools.pairwise(longest))
    assert 40 < falls < 85
