"""What a global batch means for each process, and the sentence where it does not divide."""

from __future__ import annotations

import pytest

from utils.training.global_batch import count_accumulation, division_problem


@pytest.mark.parametrize(
    ("total", "per_device", "processes", "steps"), [(64, 16, 1, 4), (64, 16, 2, 2), (64, 8, 8, 1), (24, 4, 3, 2)]
)
def test_it_divides(total: int, per_device: int, processes: int, steps: int) -> None:
    assert division_problem(total, per_device, processes) is None
    assert count_accumulation(total, per_device, processes) == steps
    assert steps * per_device * processes == total


@pytest.mark.parametrize(
    ("total", "per_device", "processes", "sentence"),
    [
        (64, 16, 3, "64 rows do not divide into 3 processes of 16 rows; the nearest that do: 48 or 96"),
        (8, 16, 1, "8 rows do not divide into batches of 16 rows; the nearest that do: 16, or "
                   "training.per_device_train_batch_size: 8"),
        (96, 20, 4, "96 rows do not divide into 4 processes of 20 rows; the nearest that do: 80 or 160, or "
                    "training.per_device_train_batch_size: 12"),
    ],
)  # fmt: skip
def test_it_does_not(total: int, per_device: int, processes: int, sentence: str) -> None:
    assert division_problem(total, per_device, processes) == sentence
    for size in (int(word) for word in sentence.partition("do: ")[2].partition(",")[0].split(" or ")):
        assert division_problem(size, per_device, processes) is None
