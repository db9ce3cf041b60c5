"""What a global batch means for each process, and the sentence where it does not divide."""

from __future__ import annotations

import pytest

from utils.trainer.global_batch import division_problem, split_batch


@pytest.mark.parametrize(
    ("total", "ceiling", "processes", "rows", "steps"),
    [
        (64, 16, 1, 16, 4), (64, 16, 2, 16, 2), (64, 8, 8, 8, 1), (24, 4, 3, 4, 2),
        # fewer rows than the processes could take at once: all of them in one batch
        (32, 64, 1, 32, 1), (8, 16, 4, 2, 1), (7, 16, 1, 7, 1),
        # the next smaller size that divides
        (96, 20, 4, 12, 2), (20, 8, 1, 5, 4),
        # one file on one machine of 8 GPUs, and on four
        (128, 16, 8, 16, 1), (128, 16, 32, 4, 1),
    ],
)  # fmt: skip
def test_it_divides(total: int, ceiling: int, processes: int, rows: int, steps: int) -> None:
    assert division_problem(total, ceiling, processes) is None
    assert split_batch(total, ceiling, processes) == (rows, steps)
    assert steps * rows * processes == total
    assert rows <= ceiling


@pytest.mark.parametrize(
    ("total", "ceiling", "processes", "sentence"),
    [
        (64, 16, 3, "64 rows do not divide into 3 processes of 16 rows; the nearest that do: 48 or 96"),
        (2, 4, 4, "2 rows do not divide into 4 processes of 4 rows; the nearest that do: 16"),
        (62, 16, 1, "62 rows do not divide into batches of 16 rows; the nearest that do: 48 or 64"),
    ],
)
def test_it_does_not(total: int, ceiling: int, processes: int, sentence: str) -> None:
    assert division_problem(total, ceiling, processes) == sentence
    for size in (int(word) for word in sentence.partition("do: ")[2].split(" or ")):
        assert division_problem(size, ceiling, processes) is None
