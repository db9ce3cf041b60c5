"""Find evaluation rows that are also trained on, by their texts: their scores measure memory."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.core.errors import DataError
from utils.data.conversations import first_request
from utils.data.dataset import Example, Reference
from utils.data.overlap import Documents, normalize_text

if TYPE_CHECKING:
    from datasets import Dataset

    from utils.evaluation.sets import EvaluationSet

logger = logging.getLogger(__name__)

_BATCH = 2000
_TELLING = 8
"""Number of words from which two answers are not equal by chance."""
_DOCUMENT = 1000
"""Number of characters from which a text is compared as a document."""
_LABELS = {"answers", "correct"}
"""Keys of a reference that hold correct answers."""

RowLocation = tuple[int, int]
"""Index of a set, and of a row in it."""


@dataclass
class Contamination:
    """Overlap of a set with the training rows."""

    label: str
    rows: set[int] = field(default_factory=set)
    """Rows whose question and answer are trained on."""
    documents: set[int] = field(default_factory=set)
    """Rows about a document that is trained on, if with other questions."""

    def describe(self) -> dict[str, Any]:
        """Return the numbers for the record."""
        return {"set": self.label, "rows": len(self.rows), "documents": len(self.documents - self.rows)}


def check_leakage(
    train: Dataset,
    read_train: Callable[[], Iterator[Example]],
    sets: Sequence[EvaluationSet],
    allow: bool | None,
) -> list[dict[str, Any]]:
    """Raise an error for training on evaluation rows, or warn of it.

    Args:
        train: Rows with `input_ids` and `labels`.
        read_train: Reads the training rows as texts, also those beyond a short run's limit, so that a trial run gets
            the same result; called only if a set needs it.
        sets: Sets with their own prompts are compared by the rows' texts, the others by their prompts.
        allow: dataset.allow_leakage.

    Returns:
        For each set that overlaps with the training rows: {"set", "rows", "documents"}, with the numbers of its rows
        that are trained on, and of its other rows whose document is.

    Raises:
        DataError: There are such rows, and they are not allowed.
    """
    plain = [each for each in sets if not each.own_prompt]
    known = warn_of_known_prompts(train, plain)
    asked = [each for each in sets if each.own_prompt]
    leaks = find_leakage(read_train(), asked) if asked else []
    for leak in leaks:
        if leak.rows and not allow:
            [judged] = [each for each in asked if each.label == leak.label]
            raise DataError(_refuse(leak, judged))
    if known and allow is False:
        label, count = next(iter(known.items()))
        raise DataError(f"{label}: {count} of its prompts are in the training rows, but dataset.allow_leakage is false")
    for leak in leaks:
        logger.warning(
            "%s: %d rows are trained on, %d others are about documents that are: their score measures memory",
            leak.label, len(leak.rows), len(leak.documents - leak.rows),
        )  # fmt: skip
    return [leak.describe() for leak in leaks] + [
        {"set": label, "rows": count, "documents": 0} for label, count in known.items()
    ]


def warn_of_known_prompts(train: Dataset, sets: Iterable[EvaluationSet]) -> dict[str, int]:
    """Count the prompts of each set that are in the training rows too, by label, and warn of them; 0 is left out.

    In rows of `input_ids` and `labels`, the prompt is everything before the first trained token.
    """
    sets = list(sets)
    wanted = {tuple(prompt) for each in sets for prompt in each.prompts}
    known = wanted.intersection(_read_prompts(train, {len(prompt) for prompt in wanted})) if wanted else set()
    counts = {each.label: sum(tuple(prompt) in known for prompt in each.prompts) for each in sets}
    for each in sets:
        if counts[each.label]:
            logger.warning(
                "%s: %d of %d prompts are in the training rows too: their score measures memory",
                each.label, counts[each.label], len(each.prompts),
            )  # fmt: skip
    return {label: count for label, count in counts.items() if count}


def _read_prompts(train: Dataset, lengths: set[int]) -> Iterator[tuple[int, ...]]:
    """Yield the training rows' prompts of these lengths; the others are not read."""
    import numpy as np

    wanted = np.array(sorted(lengths))
    for batch in train.with_format("arrow").iter(_BATCH):
        ids, labels = (batch[name].combine_chunks() for name in ("input_ids", "labels"))
        bounds = labels.offsets.to_numpy()
        trained = np.flatnonzero(labels.flatten().to_numpy() != -100) + bounds[0]
        first = np.append(trained, bounds[-1])[np.searchsorted(trained, bounds[:-1])]
        sizes = np.minimum(first, bounds[1:]) - bounds[:-1]
        tokens, starts = ids.flatten().to_numpy(), ids.offsets.to_numpy()
        starts = starts[:-1] - starts[0]
        for row in np.flatnonzero(np.isin(sizes, wanted)):
            yield tuple(tokens[starts[row] : starts[row] + sizes[row]].tolist())


def find_leakage(train: Iterable[Example], sets: Sequence[EvaluationSet]) -> list[Contamination]:
    """Compare training rows with sets by their texts, ignoring case and punctuation.

    A row is trained on if a training row has its question and one of its answers, or one of its answers of eight words
    or more. Two documents are the same if the other contains half of the shorter's 13-word sequences. Sets without
    overlap are left out.
    """
    index = _Index(sets)
    leaks = [Contamination(each.label) for each in sets]
    for example in train:
        answers = [text for text in map(normalize_text, _list_answers(example)) if text]
        question = normalize_text(example.question)
        for number, row in index.find_rows(question, answers):
            leaks[number].rows.add(row)
        for number, row in index.find_documents(_document_of(example)):
            leaks[number].documents.add(row)
            if index.is_same(number, row, question, answers):
                leaks[number].rows.add(row)
    return [leak for leak in leaks if leak.rows or leak.documents]


class _Index:
    """Index of the sets' rows by their questions, answers and documents."""

    def __init__(self, sets: Sequence[EvaluationSet]) -> None:
        self._asked: dict[tuple[str, str], list[RowLocation]] = defaultdict(list)
        self._answered: dict[str, list[RowLocation]] = defaultdict(list)
        self._rows: dict[RowLocation, tuple[str, frozenset[str]]] = {}
        holders: dict[str, list[RowLocation]] = defaultdict(list)
        for number, each in enumerate(sets):
            for row, reference in enumerate(each.references):
                question, context = each.questions[row], each.contexts[row]
                is_prompt = bool(context) and context in question  # nothing is asked besides the document
                self._add((number, row), "" if is_prompt else normalize_text(question), reference)
                holders[each.contexts[row]].append((number, row))
        holders.pop("", None)
        self._holders = list(holders.values())
        self._documents = Documents(list(holders))
        self._found: dict[str, list[int]] = {}

    def find_rows(self, question: str, answers: list[str]) -> Iterator[RowLocation]:
        """Yield rows with the same question and answer, or with the same long answer."""
        for answer in answers:
            yield from self._answered.get(answer, ())
            yield from self._asked.get((question, answer), ()) if question else ()

    def find_documents(self, text: str) -> Iterator[RowLocation]:
        """Yield rows about a document."""
        if len(text) < _DOCUMENT:
            return
        if text not in self._found:  # rows about one document are mostly consecutive
            self._found = {text: self._documents.find(text)}
        for document in self._found[text]:
            yield from self._holders[document]

    def is_same(self, number: int, row: int, question: str, answers: list[str]) -> bool:
        """Return whether a row about the same document has the same question, or none, and the same answer."""
        asked, right = self._rows[number, row]
        return asked == question and not right.isdisjoint(answers)

    def _add(self, place: RowLocation, question: str, reference: Reference) -> None:
        answers = frozenset(text for text in map(normalize_text, _list_texts(reference)) if text)
        self._rows[place] = (question, answers)
        for answer in answers:
            self._asked[question, answer].append(place)
            if answer.count(" ") >= _TELLING - 1:
                self._answered[answer].append(place)


def _list_texts(reference: Reference) -> list[str]:
    if isinstance(reference, str):
        return [reference]
    return [text for key in _LABELS & reference.keys() for text in reference[key]]


def _list_answers(example: Example) -> list[str]:
    if example.messages:
        return [turn["content"] for turn in example.messages if turn["role"] == "assistant"]
    return [example.answer, *_list_texts(example.judged_by)]


def _document_of(example: Example) -> str:
    """Return the text that may be a document: a row's context, else its whole question."""
    if example.messages:
        return first_request(example.messages)
    return example.context or example.prompt or example.answer


def _refuse(leak: Contamination, judged: EvaluationSet) -> str:
    row = min(leak.rows)
    shown = judged.questions[row].strip() or next(iter(_list_texts(judged.references[row])), "")
    return (
        f"{leak.label}: {len(leak.rows)} of its {len(judged.references)} rows are in the training rows, such as "
        f"{judged.ids[row]} ({shown[:80]!r}), so its score would measure memory; leave those rows "
        "out of training (a subset of LongBench: out of dataset.subsets), or set dataset.allow_leakage: true, which is "
        "stored with the scores"
    )
