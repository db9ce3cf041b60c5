"""The `results:` section: which files a run writes about itself, and in which language."""

from __future__ import annotations

from typing import Literal

from utils.config.section import Section


class ResultsSection(Section):
    """Files about the results."""

    formats: list[Literal["json", "xlsx", "html", "svg", "png"]] = ["json", "xlsx", "html", "svg"]
    """Files to write. json is always written, and curves.csv: `[]` means these alone. `xlsx`: results.xlsx; `html`:
    report.html, one page with scores, curves, answers and settings; `svg`: curves.svg; `png`: curves.png and a
    classifier's confusion.png, by matplotlib (the extra plots)."""
    language: Literal["en", "zh"] = "en"
    """Language of results.xlsx's column names, of report.html and the curves, and of the terminal's tables."""
