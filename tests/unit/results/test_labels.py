"""Which quantities are scores that tables show x100."""

from __future__ import annotations

import pytest

from utils.results.labels import is_score


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", True), ("accuracy_mm", True), ("matthews_correlation", True), ("combined_score", True),
        ("loss", False), ("loss_mm", False), ("mse", False),
    ],
)  # fmt: skip
def test_is_score(name: str, expected: bool) -> None:
    assert is_score(name) is expected
