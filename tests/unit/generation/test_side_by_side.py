"""Parallel batches: the same results in the same order, and torch's thread settings restored."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from utils.generation.classification import run_side_by_side

CPU = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def _name(_):
    return threading.current_thread().name, torch.get_num_threads()


def test_results_come_in_order_from_separate_threads():
    meet = threading.Barrier(3)

    def run(item):
        if item < 3:
            meet.wait(timeout=10)  # three of them run at once
        return item * item

    assert list(run_side_by_side(CPU, run, range(12))) == [item * item for item in range(12)]
    names, threads = zip(*run_side_by_side(CPU, _name, range(12)), strict=True)
    assert threading.current_thread().name not in names
    assert set(threads) == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("model", "number"),
    [
        (CPU, 5),
        (SimpleNamespace(device=torch.device("meta")), 12),
        (SimpleNamespace(device=torch.device("cpu"), is_quantized=True), 12),
    ],
    ids=["too few", "not on the CPU", "quantized"],
)
def test_sequential_execution(model, number):
    assert set(run_side_by_side(model, _name, range(number))) == {(threading.current_thread().name, 3)}


def test_an_error_is_raised_and_stops_the_rest():
    done = []

    def run(item):
        done.append(item)
        if item == 1:
            raise torch.OutOfMemoryError("no room")
        return item

    with pytest.raises(torch.OutOfMemoryError):
        list(run_side_by_side(CPU, run, range(1000)))
    assert len(done) < 1000
    assert torch.get_num_threads() == 3
