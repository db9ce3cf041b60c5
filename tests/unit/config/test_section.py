"""The strict base class: no unknown keys, no silent casts, numbers in every spelling."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from utils.config.section import Section


class Sample(Section):
    number: float = 0.0
    count: int | None = None
    numbers: list[float] | Literal["balanced"] | None = None
    names: str | list[str] = "a"
    size: int | str = 1
    switch: bool = False
    either: bool | int = 1
    ranks: dict[str, int] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    path: str | None = None


@pytest.mark.parametrize("written", [2e-5, "2e-5", "2E-5", "2.0e-05", ".00002", "0.00002", "+2e-5"])
def test_numbers_in_every_spelling(written: Any) -> None:
    assert Sample(number=written).number == 2e-5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"count": "1_000"}, 1000),
        ({"count": 8.0}, 8),
        ({"count": "8"}, 8),
        ({"numbers": ["1e-1", 2]}, [0.1, 2.0]),
        ({"numbers": "balanced"}, "balanced"),
        ({"size": "8"}, "8"),
        ({"names": "5"}, "5"),
        ({"names": ["1e5"]}, ["1e5"]),
        ({"switch": "off"}, False),
        ({"switch": 1}, True),
        ({"either": True}, True),
        ({"count": None}, None),
    ],
)
def test_accepted_values(values: dict[str, Any], expected: Any) -> None:
    assert getattr(Sample(**values), next(iter(values))) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"number": True},
        {"count": False},
        {"numbers": [True, 1.0]},
        {"count": 1.5},
        {"count": "1.5"},
        {"number": "many"},
        {"number": float("nan")},
        {"number": float("inf")},
        {"number": "1e300"},
        {"number": 1e-300},
        {"weights": {"a": -1e-40}},
        {"path": " "},
        {"numbers": [-1e39]},
        {"weights": {"a": float("nan")}},
        {"number": "1e999"},
        {"names": 5},
        {"names": [5]},
        {"unknown": 1},
        {"switch": 2},
        {"number": None},
        {"number": ""},
        {"number": "0x10"},
        {"count": "1e400"},
        {"numbers": [[1]]},
    ],
)
def test_refused_values(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sample(**values)


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Sample().number = 1.0
