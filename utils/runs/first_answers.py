"""Shows what a model answered to the first rows of a set, beside what was expected."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.evaluation.files import PREDICTIONS, scan_records

if TYPE_CHECKING:
    from rich.text import Text

NUM_SHOWN = 3
_LONGEST = 400
_OF_NO_TEXT = ("row", "label", "prediction", "probabilities")


def render_first_answers(label: str, folder: Path, count: int = NUM_SHOWN) -> list[Text]:
    """Build a paragraph for each of the first rows in a result's folder; of long texts the end, or the beginning."""
    return [_render(label, record) for _, record in islice(scan_records(folder / PREDICTIONS), count)]


def _render(label: str, record: dict[str, Any]) -> Text:
    from rich.text import Text

    if "references" in record:
        expected = record["references"]
        wanted = expected[0] if isinstance(expected, list) and expected else str(expected)
        scores = {name: value for name, value in record.get("scores", {}).items() if value is not None}
        asked, place = str(record["prompt"]), str(record["id"])
    else:  # of a classifier
        wanted, scores, place = record["label"], {}, f"row {record['row']}"
        asked = " | ".join(str(value) for key, value in record.items() if key not in _OF_NO_TEXT)
    told = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    shown = asked if len(asked) <= _LONGEST else f"...{asked[-_LONGEST:]}"
    text = Text(f"{label}, {place}{': ' + told if told else ''}\n", style="bold")
    for name, value in (("asked", shown), ("answered", record["prediction"]), ("expected", wanted)):
        text.append(f"  {name:9}", style="dim")
        text.append(f"{_shorten(str(value))}\n", style="not bold")
    return text


def _shorten(value: str) -> str:
    kept = value if len(value) <= _LONGEST + 3 else f"{value[:_LONGEST]}..."
    return kept.strip().replace("\n", f"\n{'':11}")
