"""Show a model's answers to the first rows of a set, with the expected ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.json_files import NotJsonError, parse_json
from utils.evaluation.files import PREDICTIONS
from utils.results.labels import Language, count_columns, translate

if TYPE_CHECKING:
    from rich.text import Text

NUM_SHOWN = 3
_LONGEST = 400
_OF_NO_TEXT = ("row", "label", "prediction", "probabilities")


@dataclass(frozen=True)
class ShownAnswer:
    """A row of a set with the model's answer, the expected one, and the scores."""

    place: str
    scores: dict[str, float]
    asked: str
    answered: str
    expected: str
    is_right: bool | None
    """None: the scores are not only 0 or 1."""

    @property
    def title(self) -> str:
        """The row's number and scores."""
        scores = ", ".join(f"{name} {value:.2f}" for name, value in self.scores.items())
        return f"{self.place}{': ' + scores if scores else ''}"

    def list_parts(self, language: Language, longest: int = _LONGEST) -> list[tuple[str, str]]:
        """List the row's texts by their names; long prompts keep their end, long answers their beginning."""
        asked = self.asked if len(self.asked) <= longest else f"...{self.asked[-longest:]}"
        texts = {"asked": asked, "answered": _cut(self.answered, longest), "expected": _cut(self.expected, longest)}
        return [(translate(name, language), text.strip()) for name, text in texts.items()]


def read_answers(folder: Path, language: Language = "en") -> Iterator[ShownAnswer]:
    """Read the answers in a result's folder, row by row, up to a torn line; none without a file."""
    file = folder / PREDICTIONS
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for line in lines:
            try:
                record = parse_json(line)
            except NotJsonError:  # the last line may be partially written
                return
            if not isinstance(record, dict) or "prediction" not in record:
                return
            yield _read(record, language)


def _read(record: dict[str, Any], language: Language) -> ShownAnswer:
    answered = str(record["prediction"])
    if "references" not in record:  # of a classifier
        texts = " | ".join(str(value) for key, value in record.items() if key not in _OF_NO_TEXT)
        label = record.get("label")
        is_right = label == record["prediction"] if isinstance(label, str) else None
        place = f"{translate('row', language)} {record.get('row', '')}"
        return ShownAnswer(place, {}, texts, answered, str(label), is_right)
    expected = record["references"]
    wanted = expected[0] if isinstance(expected, list) and expected else str(expected)
    scores = {name: value for name, value in record.get("scores", {}).items() if value is not None}
    first = next(iter(scores.values()), None)
    is_right = first == 1 if first in (0, 1) else None
    asked = str(record.get("prompt", ""))
    return ShownAnswer(str(record.get("id", "")), scores, asked, answered, str(wanted), is_right)


def render_first_answers(label: str, folder: Path, count: int = NUM_SHOWN, language: Language = "en") -> list[Text]:
    """Build a paragraph for each of the first rows in a result's folder."""
    return [_render(label, answer, language) for answer in islice(read_answers(folder, language), count)]


def _render(label: str, answer: ShownAnswer, language: Language) -> Text:
    from rich.text import Text

    parts = answer.list_parts(language)
    width = 1 + max(count_columns(name) for name, _ in parts)
    text = Text(f"{label}, {answer.title}\n", style="bold")
    for name, value in parts:
        text.append(f"  {name}{' ' * (width - count_columns(name))}", style="dim")
        text.append(value.replace("\n", f"\n{' ' * (width + 2)}") + "\n", style="not bold")
    return text


def _cut(value: str, longest: int) -> str:
    return value if len(value) <= longest + 3 else f"{value[:longest]}..."
