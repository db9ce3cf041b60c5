"""Compare the losses and weights of two runs."""

from __future__ import annotations

from typing import Any

import torch


def read_losses(run: Any) -> list[float]:
    """Return the logged training losses."""
    return [log["loss"] for log in run.trainer.state.log_history if "loss" in log]


def copy_trained(run: Any) -> dict[str, torch.Tensor]:
    """Return a copy of the trained parameters."""
    return {name: p.detach().clone() for name, p in run.trainer.model.named_parameters() if p.requires_grad}


def assert_alike(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    """Assert that two runs have the same losses and trained parameters, up to rounding."""
    assert max(abs(a - b) for a, b in zip(read_losses(one), read_losses(other), strict=True)) < tolerance
    expected, found = copy_trained(one), copy_trained(other)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(value, found[name], atol=1e-4) for name, value in expected.items())
