"""The generation section: defaults, refused values, and reading it without any ML library."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from utils.config.sections.generation import GenerationSection


def test_defaults_are_greedy() -> None:
    section = GenerationSection()
    assert (section.max_new_tokens, section.temperature, section.batch_size, section.stop) == (256, 0.0, 16, [])
    assert section.top_p is None
    assert section.top_k is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0}, {"temperature": -0.1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": 0}, {"batch_size": 0},
        {"stop": [""]}, {"stop": "x"}, {"max_new_tokens": True}, {"temprature": 1},
        {"max_batch_tokens": 0}, {"min_new_tokens": -1}, {"min_new_tokens": 5, "max_new_tokens": 4},
    ],
)  # fmt: skip
def test_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GenerationSection.model_validate(wrong)


def test_batch_size_is_not_an_answer_setting() -> None:
    one, other = GenerationSection(batch_size=1, max_batch_tokens=9), GenerationSection()
    assert one.answer_settings() == other.answer_settings()
    assert GenerationSection(min_new_tokens=1).answer_settings() != other.answer_settings()


def test_every_field_is_described() -> None:
    assert all(info.description for info in GenerationSection.model_fields.values())


def test_reading_imports_no_library() -> None:
    code = (
        "import sys, utils.config.sections.generation, utils.config.sections.evaluation;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'datasets') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
