"""The embedded base model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart" / "base"


@pytest.fixture(scope="module")
def quickstart() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(QUICKSTART), AutoTokenizer.from_pretrained(QUICKSTART)
