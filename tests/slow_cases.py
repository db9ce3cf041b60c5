"""Chooses which cases of a family run by default; the others are marked slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Give the cases, those slow that are not named as `fast`."""
    return [each if each in fast else pytest.param(each, marks=pytest.mark.slow) for each in cases]
