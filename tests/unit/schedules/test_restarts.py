"""The learning rate after each step, against values computed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from utils.schedules import restarts
from utils.schedules.restarts import Config


def _rates(steps: int, warmup: int, **keys: Any) -> list[float]:
    """Return the rate of each optimizer step, relative to the run's rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    args: Any = SimpleNamespace(get_warmup_steps=lambda total: warmup)
    schedule = restarts.build_schedule(optimizer, steps, args, Config(**keys))
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_warm_up_restarts_and_decay() -> None:
    rates = _rates(10, 2, restart_every=4, restart_warmup_steps=2, restart_decay=2)
    assert rates == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 1, 0.5]), "no restart at 8, within the decay"
    assert restarts.list_restarts(10, Config(restart_every=4, restart_decay=2)) == [4]


def test_restarts_and_warmup_as_fractions_of_the_run() -> None:
    config = Config(restart_every=0.25, restart_warmup_steps=0.01, restart_decay=0.1)
    assert restarts.list_restarts(100, config) == [25, 50, 75]
    assert restarts.describe(100, config) == (
        "restarts after step 25, 50, 75, each with 1 steps of warm-up; the last 10 steps decay"
    )


def test_cosine_falls_to_a_tenth() -> None:
    rates = _rates(101, 0, restart_every=200, restart_decay=0, restart_shape="cosine")
    assert rates[0] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("keys", [{"restart_every": 2.5}, {"restart_decay": 1.5}, {"restart_every": 0}])
def test_invalid_numbers_of_steps_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="restart_"):
        Config(**keys)
