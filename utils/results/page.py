"""A report as one self-contained HTML page: its blocks, and their rendering by page.html.jinja.

The texts of a page are data: rows, answers, settings. The template escapes all of them, and a Content-Security-Policy
forbids scripts and external resources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from utils.core.project import VERSION
from utils.core.replace_file import replace_text
from utils.core.secrets import mask_text
from utils.core.terminal import show_controls
from utils.results import svg
from utils.results.charts import BarChart, Chart
from utils.results.labels import Language

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "page.html.jinja"
_LANGUAGES = {"en": "en", "zh": "zh-CN"}

Tone = Literal["good", "bad", "other", ""]


@dataclass(frozen=True)
class Facts:
    """Key figures, each with its name and a note."""

    facts: tuple[tuple[str, str, str], ...]
    kind: str = "facts"


@dataclass(frozen=True)
class TableCell:
    """A cell with more than a text."""

    text: str
    share: float | None = None
    """Intensity of the tint, 0 to 1."""
    link: str = ""
    """A file beside the page."""
    tone: Tone = ""
    is_marked: bool = False
    """On the diagonal of a confusion matrix."""


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column is the header of its row."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[TableCell | str, ...], ...]
    numeric: frozenset[int] = frozenset()
    """Columns of numbers."""
    is_folded: bool = False
    """Shown when opened."""
    kind: str = "table"


@dataclass(frozen=True)
class Figures:
    """Charts side by side."""

    charts: tuple[Chart | BarChart, ...]
    kind: str = "figures"

    def render(self) -> list[str]:
        """Draw the charts."""
        return [svg.render(chart) for chart in self.charts]


@dataclass(frozen=True)
class Sample:
    """A model's answer to one row."""

    title: str
    parts: tuple[tuple[str, str], ...]
    """Question, answer and reference, each with its name."""
    tone: Tone = ""
    verdict: str = ""
    """The tone as a word, for readers who cannot see colours."""


@dataclass(frozen=True)
class Samples:
    """Answers below a heading."""

    title: str
    samples: tuple[Sample, ...]
    kind: str = "samples"


@dataclass(frozen=True)
class Sentences:
    """Notes, as a list."""

    sentences: tuple[str, ...]
    tone: Tone = ""
    kind: str = "sentences"


Block: TypeAlias = Facts | Table | Figures | Samples | Sentences


@dataclass(frozen=True)
class PartOfPage:
    """Blocks under a heading; left out without blocks."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    status: tuple[str, Tone]
    subtitle: str
    parts: Sequence[PartOfPage]
    language: Language = "en"


def render_page(page: Page) -> str:
    """Render a page as HTML."""
    parts = [part for part in page.parts if part.blocks]
    return _load_template().render(
        page=page, parts=parts, lang=_LANGUAGES[page.language], colors=svg.colors(), style=svg.STYLE, version=VERSION
    )


def write_page(path: Path, page: Page) -> None:
    """Write a page atomically."""
    replace_text(path, render_page(page), errors="backslashreplace")


@cache
def _load_template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_clean
    )
    return environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8"))


def _clean(value: Any) -> Any:
    """Replace control codes, which HTML cannot hold, and mask secrets; markup is unchanged."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else show_controls(mask_text(value))
