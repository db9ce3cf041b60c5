"""The results section: defaults and refused values."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from utils.config.sections.results import ResultsSection


def test_defaults_and_refusals() -> None:
    assert ResultsSection().model_dump() == {"formats": ["json", "xlsx", "html", "svg"], "language": "en"}
    assert ResultsSection(formats=["json"], language="zh").language == "zh"
    for wrong in ({"formats": ["csv"]}, {"language": "de"}, {"format": ["json"]}):
        with pytest.raises(ValidationError):
            ResultsSection.model_validate(wrong)
    assert all(field.description for field in ResultsSection.model_fields.values())
