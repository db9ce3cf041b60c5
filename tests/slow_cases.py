"""Choose which cases of a family run by default; the others are marked slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Return the cases, marking as slow those not named in `fast`."""
    return [each if each in fast else pytest.param(each, marks=pytest.mark.slow) for each in cases]
