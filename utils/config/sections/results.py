"""The `results:` section: which result files a run writes, and in which language."""

from __future__ import annotations

from typing import Literal

from utils.config.section import Section


class ResultsSection(Section):
    """The result files of a run."""

    formats: list[Literal["json", "xlsx", "html", "svg", "png"]] = ["json", "xlsx", "html", "svg"]
    """Files to write. json and curves.csv are always written, so `[]` means these alone. `xlsx`: results.xlsx; `html`:
    report.html, one page with scores, curves, answers and settings; `svg`: curves.svg; `png`: curves.png and, for a
    classifier, confusion.png, which need matplotlib (the extra plots)."""
    language: Literal["en", "zh"] = "en"
    """Language of results.xlsx's column names, report.html, the curves and the terminal's tables and checks."""
