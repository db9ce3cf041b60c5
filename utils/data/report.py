"""The data report: what a split contains, what was cut or left out and why, and which characters are lost."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from utils.core.texts import shorten_list
from utils.data.tokenizing import read_column

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_MAX_CHARACTERS = 20
MAX_ROWS = 2000
"""Number of rows checked for lost characters: enough to see every common one."""


@dataclass
class SplitReport:
    """Statistics of one split for classification or regression."""

    name: str
    rows: int
    truncated_rows: int
    """Number of rows cut at dataset.max_length."""
    empty_texts: int
    """Number of rows with an empty or missing text."""
    token_lengths: dict[str, int]
    """Median, 95th percentile and maximum of tokens per row, after cutting."""
    label_counts: dict[str, int] = field(default_factory=dict)
    """Number of rows by class; empty for regression and unlabelled rows."""
    left_out_rows: int = 0
    """Number of rows left out by dataset.max_train_samples or max_eval_samples."""
    shared_with_train: int = 0
    """Number of rows whose text is also in the training split."""
    bad_rows: int = 0
    """Number of unusable rows left out (dataset.on_bad_row: drop)."""
    bad_examples: list[str] = field(default_factory=list)
    """Location and reason of the first bad rows."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Number of checked rows by character that the tokenizer does not know."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report for the run's record."""
        return asdict(self)

    def log(self) -> None:
        """Log the statistics in one line, and warn of possible problems."""
        cut = f"{count} cut ({count / self.rows:.1%})" if (count := self.truncated_rows) else "none cut"
        labels = f"; labels {_join(self.label_counts)}" if self.label_counts else ""
        logger.info("data %s: %d rows, tokens %s; %s%s", self.name, self.rows, _join(self.token_lengths), cut, labels)
        if self.left_out_rows:
            logger.info("data %s: %d further rows are left out", self.name, self.left_out_rows)
        for warning in self._list_warnings():
            logger.warning("data %s: %s", self.name, warning)

    def _list_warnings(self) -> Iterator[str]:
        if absent := [label for label, count in self.label_counts.items() if count == 0]:
            yield f"these classes never occur: {shorten_list(absent, 10)}"
        if self.empty_texts:
            yield f"{self.empty_texts} rows have an empty text"
        if self.bad_rows:
            yield f"{self.bad_rows} bad rows are left out"
        yield from (f"left out {each}" for each in self.bad_examples)
        if self.unreadable:
            what = "the tokenizer does not know these characters, so that the model cannot read them"
            yield f"{what}: {show_characters(self.unreadable)}"
        if self.shared_with_train:
            yield f"{self.shared_with_train} rows are in the training split too"


def check_split(
    name: str, tokens: Dataset, rows: Dataset, text_columns: tuple[str, ...], label_names: tuple[str, ...]
) -> SplitReport:
    """Compute a split's statistics from its tokens and its rows as texts, none missing, with `labels` if any."""
    empty = {row for column in text_columns for row, text in enumerate(read_column(rows, column)) if not text.strip()}
    labelled = "labels" in rows.column_names and label_names
    counts = Counter(rows["labels"][:]) if labelled else Counter()
    return SplitReport(
        name=name,
        rows=len(rows),
        truncated_rows=sum(tokens["truncated"][:]),
        empty_texts=len(empty),
        token_lengths=summarize_lengths(tokens["length"][:]),
        label_counts={label: counts[index] for index, label in enumerate(label_names)} if labelled else {},
    )


def count_shared_rows(train: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]]) -> int:
    """Count rows whose texts, given by column, are all in a training row too."""
    seen = set(zip(*train.values(), strict=True))
    return sum(texts in seen for texts in zip(*other.values(), strict=True))


def _counter(phrase: str) -> int:
    """Create a counter field with the phrase that the log uses if it is not 0."""
    return field(default=0, metadata={"phrase": phrase})


@dataclass
class InstructionReport:
    """Statistics of one split's rows for CAUSAL_LM."""

    name: str
    rows_read: int = 0
    rows_used: int = 0
    held_out_rows: int = _counter("rows held out to validate")
    held_out_ids: list[str] = field(default_factory=list)
    """The held-out rows' own names, if the dataset's rows have names."""
    related_rows: int = _counter("rows left out beside them, of the same group or prompt")
    left_out_rows: int = _counter("rows left out by dataset.max_train_samples or max_eval_samples")
    bad_rows: int = _counter("rows bad and left out")
    bad_examples: list[str] = field(default_factory=list)
    empty_rows: int = _counter("rows left out without a token to train on")
    too_long_rows: int = _counter("rows longer than max_length and left out")
    prompts_cut: int = _counter("rows with the prompt's middle cut out")
    answers_cut: int = _counter("rows with the end cut off the answer or text (no end-of-text token)")
    conversations_cut: int = _counter("rows without their later exchanges")
    cut_turns: int = _counter("turns after the last answer left out")
    untrained_turns: int = _counter("assistant turns not trained on (empty, or with nothing before them)")
    weightless_turns: int = _counter("assistant turns not trained on by their weight")
    num_encoded: int = 0
    """Number of rows after encoding: more if texts are split, or conversations rendered several times."""
    notes: dict[str, int] = field(default_factory=dict)
    """Number of rows by other change."""
    unread: dict[str, int] = field(default_factory=dict)
    """Number of rows by unread column or key of turns."""
    duplicate_rows: int = _counter("rows equal to an earlier row")
    shared_with_train: int = _counter("rows whose prompt is in the training rows too")
    unwritable: dict[str, int] = field(default_factory=dict)
    """Number of checked rows by character that the tokenizer cannot encode."""
    token_lengths_uncut: dict[str, int] = field(default_factory=dict)
    """Median, 95th percentile and maximum of tokens per row, before cutting."""
    token_lengths: dict[str, int] = field(default_factory=dict)
    """The same after cutting."""
    trained_share: float = 0.0
    """Share of the tokens that are trained on, 0 to 1."""

    @property
    def rows(self) -> int:
        """Number of rows used."""
        return self.rows_used

    def to_dict(self) -> dict[str, Any]:
        """Return the report for the run's record."""
        return asdict(self)

    def log(self) -> None:
        """Log the statistics in one line, and what was cut or left out in another."""
        lengths, uncut = _join(self.token_lengths), self.token_lengths_uncut
        cut = "" if self.token_lengths == uncut else f" (max {uncut['max']} uncut)"
        became = "" if self.num_encoded in (0, self.rows_used) else f" as {self.num_encoded}"
        logger.info(
            "data %s: %d of %d rows%s, tokens %s%s, %.1f %% trained",
            self.name, self.rows_used, self.rows_read, became, lengths, cut, 100 * self.trained_share,
        )  # fmt: skip
        if self.unread:
            shown = shorten_list(f"{key} ({count} rows)" for key, count in self.unread.items())
            logger.info("data %s: nothing reads %s", self.name, shown)
        if changes := self._changes():
            # Unrequested changes or losses deserve a warning.
            lost = self.bad_rows + self.empty_rows + self.too_long_rows + self.prompts_cut + self.answers_cut
            lost += self.cut_turns + self.conversations_cut + self.untrained_turns + self.shared_with_train
            logger.log(logging.WARNING if lost else logging.INFO, "data %s: %s", self.name, "; ".join(changes))
        if self.unwritable:
            logger.warning(
                "data %s: the tokenizer cannot write these characters, so that the model can neither read nor learn "
                "them: %s",
                self.name, show_characters(self.unwritable),
            )  # fmt: skip
        for example in self.bad_examples:
            logger.warning("data %s: left out %s", self.name, example)

    def _changes(self) -> list[str]:
        """Describe changes to rows, then other changes (`notes`), then changes to turns."""
        told = {each.metadata["phrase"]: getattr(self, each.name) for each in fields(self) if each.metadata}
        rows = {phrase: count for phrase, count in told.items() if phrase.startswith("rows")}
        notes = {f"rows {note}": count for note, count in self.notes.items()}
        return [f"{count} {phrase}" for phrase, count in {**rows, **notes, **told}.items() if count]


def summarize_lengths(lengths: Sequence[int]) -> dict[str, int]:
    """Return median, 95th percentile and maximum, or {} for no rows."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    return {"p50": ordered[len(ordered) // 2], "p95": ordered[int(len(ordered) * 0.95)], "max": ordered[-1]}


def count_unwritable(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, to_read: bool = False
) -> dict[str, int]:
    """Count, for every character lost between encoding and decoding, the texts with it, most frequent first.

    A tokenizer made for children's stories may not know `#` or `+`: it silently drops them or uses an unknown token. A
    character that comes back in another Unicode normal form (NFKC) is not lost. If the model only reads the texts
    (`to_read`), the tokenizer's own normalization of a character, such as lower case, counts as the same, and invisible
    characters are ignored.
    """
    held: Counter[str] = Counter()
    first: dict[str, str] = {}
    for text in texts:
        characters = {each for each in set(text) if not each.isspace() and (each.isprintable() or not to_read)}
        held.update(characters)
        first |= dict.fromkeys(characters - first.keys(), text)
    # On its own, a character may have no token, while the words that contain it have one.
    lost = {
        character: count
        for character, count in held.items()
        if not any(
            _survives(form, text, tokenizer)
            for form in (character, *(_normalize(character, tokenizer) if to_read else ()))
            for text in (character, first[character])
        )
    }
    return dict(sorted(lost.items(), key=lambda pair: (-pair[1], pair[0])))


def show_characters(counts: Mapping[str, int]) -> str:
    """Format the first of some characters, with the number of rows that have the most frequent one."""
    first = [each if each.isprintable() else f"U+{ord(each):04X}" for each in list(counts)[:_MAX_CHARACTERS]]
    shown = " ".join(first) + (" ..." if len(counts) > _MAX_CHARACTERS else "")
    return f"{shown} (the first in {next(iter(counts.values()))} rows)"


def _normalize(character: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the tokenizer's normalization of a character, if any."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    form = normalizer.normalize_str(character).strip() if normalizer is not None else ""
    return (form,) if form else ()


def _survives(character: str, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    back = tokenizer.decode([each for each in ids if each != tokenizer.unk_token_id])
    return unicodedata.normalize("NFKC", character) in unicodedata.normalize("NFKC", back)


def _join(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
