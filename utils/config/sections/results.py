"""The `results:` section: which files a run writes about itself, and in which language."""

from __future__ import annotations

from typing import Literal

from utils.config.section import Section


class ResultsSection(Section):
    """Files about the results."""

    formats: list[Literal["json", "xlsx"]] = ["json", "xlsx"]
    """Files to write; json is always written, so `[]` means json only, and `xlsx` adds results.xlsx."""
    language: Literal["en", "zh"] = "en"
    """Language of the column names in results.xlsx and of the table at the end of a run."""
