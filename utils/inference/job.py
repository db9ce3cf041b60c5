"""Answer rows window by window: bad rows are reported, good ones answered in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from utils.core.errors import DataError
from utils.core.progress import RowProgress
from utils.core.texts import RowError
from utils.data.report import MAX_ROWS, count_unwritable
from utils.data.row_files import Row
from utils.inference.partial import PartialFile
from utils.inference.predictor import Predictor
from utils.inference.prompt_builder import PromptBuilder
from utils.inference.row_io import InputRow, Source

_WINDOW_CHARACTERS = 8_000_000  # very long rows make a window smaller, so that memory stays bounded


class OrderedResultWriter:
    """Passes finished rows to a function in order, as soon as no earlier one is missing."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write
        self._expected = 0
        self._ahead: dict[int, Mapping[str, Any]] = {}

    def __contains__(self, number: int) -> bool:
        return number < self._expected or number in self._ahead

    def add(self, results: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Add rows, and pass on those that are next."""
        self._ahead.update(results)
        while self._expected in self._ahead:
            self._write(self._ahead.pop(self._expected))
            self._expected += 1


ResultWriter: TypeAlias = OrderedResultWriter | PartialFile
"""Accepts answers in any order within a window."""


@dataclass
class InferenceJob:
    """Processes one call's rows from the source to the writer."""

    source: Source
    prompt_builder: PromptBuilder
    predictor: Predictor
    writer: ResultWriter
    progress: RowProgress
    strict: bool = False
    window: int | None = None
    """Rows per window; None: as many as suit the model."""
    num_rows: int = 0
    num_bad: int = 0
    """Number of rows without an answer."""
    bad: list[str] = field(default_factory=list)
    """The first bad rows, with place and reason."""
    asked: list[str] = field(default_factory=list)
    """Texts of the first rows."""

    def answer_all(self, rows: Iterable[InputRow]) -> None:
        """Answer all rows; with `strict` the first bad one ends the call."""
        for window in cut_windows(rows, self.window or self.predictor.window):
            self.num_rows += len(window)
            self._answer_window(window)

    def lay_out(self, row: InputRow, answer: Mapping[str, Any]) -> Row:
        """Append an answer to its row, renaming the row's own columns of the same names to input_<name>."""
        taken = {*self.prompt_builder.keys, "error", *row.place}
        # The row keeps its own columns: one that the answer also has gets a unique name.
        laid: Row = {}
        for key, value in row.row.items():
            name = key
            while name in taken or (name != key and name in row.row) or (name == key and _is_probability(key, taken)):
                name = f"input_{name}"
            laid[name] = value
        if "error" in answer:
            laid |= row.place
        return laid | dict(answer)

    def find_unknown(self) -> dict[str, int]:
        """Find characters in the first rows that the tokenizer does not know, with the number of rows with each."""
        return count_unwritable(self.asked, self.predictor.tokenizer, to_read=True)

    def _answer_window(self, window: Sequence[InputRow]) -> None:
        """Answer a window, in the same batches whatever an earlier call has answered."""
        # Rows answered by an earlier call are encoded again: other batches would round differently.
        good, questions = self._read_window(window)
        numbers = [row.number for row in good]
        done = {place for place, number in enumerate(numbers) if number in self.writer}
        for batch in self.predictor.answer(questions, numbers, done):
            new = [each for each in batch if each.place not in done]
            for each in (each for each in new if "error" in each.answer):
                self._note(good[each.place], each.answer["error"])
            self.writer.add((numbers[each.place], self.lay_out(good[each.place], each.answer)) for each in new)
            self.progress.advance(len(new), sum(each.num_tokens for each in new))

    def _read_window(self, window: Sequence[InputRow]) -> tuple[list[InputRow], list[Any]]:
        """Return the rows that can be answered and their questions; report the others."""
        good: list[InputRow] = []
        questions: list[Any] = []
        refused: list[tuple[int, Row]] = []
        for row in window:
            try:
                question = self._ask(row)
                questions.append(self.predictor.encode(question))
                good.append(row)
                if len(self.asked) < MAX_ROWS:
                    self.asked.append(_join_texts(question))
            except RowError as error:
                self._note(row, str(error))
                if row.number not in self.writer:
                    refused.append((row.number, self.lay_out(row, {"error": str(error)})))
        if refused:
            self.writer.add(refused)
            self.progress.advance(len(refused), 0)
        return good, questions

    def _ask(self, row: InputRow) -> Any:
        if row.error is not None:
            raise RowError(row.error)
        return self.prompt_builder.read(row.row)

    def _note(self, row: InputRow, reason: str) -> None:
        place = f"{self.source.place(row)}: {reason}"
        if self.strict:
            raise DataError(place)
        self.num_bad += 1
        if len(self.bad) < 5:
            self.bad.append(place)


def _join_texts(question: Any) -> str:
    return " ".join(question) if isinstance(question, tuple) else str(question.whole_text)


def cut_windows(rows: Iterable[InputRow], size: int) -> Iterator[list[InputRow]]:
    """Split rows into windows of `size`, fewer if they are very long; equal for equal rows."""
    window: list[InputRow] = []
    num_characters = 0
    for row in rows:
        window.append(row)
        num_characters += row.size
        if len(window) == size or num_characters >= _WINDOW_CHARACTERS:
            yield window
            window, num_characters = [], 0
    if window:
        yield window


def _is_probability(key: str, taken: set[str]) -> bool:
    """Return whether a table would read a column as the probability of a class."""
    return "probabilities" in taken and key.startswith("probability_")
