"""The data report: what was found in a split, what was cut or left out and why, and which characters are lost."""

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

_MOST_CHARACTERS = 20
MAX_ROWS = 2000
"""Rows that are looked at for lost characters: enough to meet every common one."""


@dataclass
class SplitReport:
    """What was found in one split of a set for classification or regression."""

    name: str
    rows: int
    truncated_rows: int
    """Rows cut at dataset.max_length."""
    empty_texts: int
    """Rows with an empty or missing text."""
    token_lengths: dict[str, int]
    """Median, 95th percentile and maximum of tokens per row, after cutting."""
    label_counts: dict[str, int] = field(default_factory=dict)
    """Rows by class; empty for regression and unlabelled rows."""
    left_out_rows: int = 0
    """Rows that dataset.max_train_samples or max_eval_samples keeps out."""
    shared_with_train: int = 0
    """Rows whose text stands in the training split too."""
    bad_rows: int = 0
    """Rows that cannot be used and are left out (dataset.on_bad_row: drop)."""
    bad_examples: list[str] = field(default_factory=list)
    """Place and reason of the first of them."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Characters that the tokenizer does not know, and in how many of the first rows each stands."""

    def to_dict(self) -> dict[str, Any]:
        """Give the report for the run's record."""
        return asdict(self)

    def log(self) -> None:
        """Say in one line what is there, and warn of what may be wrong."""
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
    """Count what a split holds: its tokens, and its rows as texts, none missing, with `labels` where there are any."""
    empty = {row for column in text_columns for row, text in enumerate(read_column(rows, column)) if not text.strip()}
    labelled = "labels" in rows.column_names and label_names
    counts = Counter(rows["labels"][:]) if labelled else Counter()
    return SplitReport(
        name=name,
        rows=len(rows),
        truncated_rows=sum(tokens["truncated"][:]),
        empty_texts=len(empty),
        token_lengths=summarise_lengths(tokens["length"][:]),
        label_counts={label: counts[index] for index, label in enumerate(label_names)} if labelled else {},
    )


def count_shared_rows(train: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]]) -> int:
    """Count rows whose texts, given by column, all stand in the training rows too."""
    seen = set(zip(*train.values(), strict=True))
    return sum(texts in seen for texts in zip(*other.values(), strict=True))


def _counted(phrase: str) -> int:
    """Make a field of a count, which the log tells in these words where it is not 0."""
    return field(default=0, metadata={"phrase": phrase})


@dataclass
class InstructionReport:
    """What became of one split's rows for CAUSAL_LM."""

    name: str
    rows_read: int = 0
    rows_used: int = 0
    held_out_rows: int = _counted("rows held out to validate")
    held_out_ids: list[str] = field(default_factory=list)
    """Their own names, where the set's rows have some."""
    related_rows: int = _counted("rows left out beside them, of the same group or prompt")
    left_out_rows: int = _counted("rows left out by dataset.max_train_samples or max_eval_samples")
    bad_rows: int = _counted("rows bad and left out")
    bad_examples: list[str] = field(default_factory=list)
    empty_rows: int = _counted("rows left out without a token to train on")
    too_long_rows: int = _counted("rows longer than max_length and left out")
    prompts_cut: int = _counted("rows with the prompt's middle cut out")
    answers_cut: int = _counted("rows with the end cut off the answer or text (no end-of-text token)")
    conversations_cut: int = _counted("rows without their later exchanges")
    cut_turns: int = _counted("turns after the last answer left out")
    untrained_turns: int = _counted("assistant turns not trained on (empty, or with nothing before them)")
    weightless_turns: int = _counted("assistant turns not trained on by their weight")
    num_encoded: int = 0
    """Rows that the rows used became: more where texts are split, or conversations written several times."""
    notes: dict[str, int] = field(default_factory=dict)
    """What else was done to rows, and to how many."""
    unread: dict[str, int] = field(default_factory=dict)
    """Columns, and keys of turns, that nothing reads, and how many rows have each."""
    duplicate_rows: int = _counted("rows equal to an earlier row")
    shared_with_train: int = _counted("rows whose prompt is in the training rows too")
    unwritable: dict[str, int] = field(default_factory=dict)
    """Characters that the tokenizer cannot write, and in how many of the first rows each stands."""
    token_lengths_uncut: dict[str, int] = field(default_factory=dict)
    """Median, 95th percentile and maximum of tokens per row, before cutting."""
    token_lengths: dict[str, int] = field(default_factory=dict)
    """The same after cutting."""
    trained_share: float = 0.0
    """Share of the tokens that are trained on, 0 to 1."""

    @property
    def rows(self) -> int:
        """Rows that are used."""
        return self.rows_used

    def to_dict(self) -> dict[str, Any]:
        """Give the report for the run's record."""
        return asdict(self)

    def log(self) -> None:
        """Say in one line what is there, in a second one what was cut or left out."""
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
            # Rows that are changed or lost in a way that nobody asked for are worth a warning.
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
        """Say what was done to rows, then what else (`notes`), then what was done to turns."""
        told = {each.metadata["phrase"]: getattr(self, each.name) for each in fields(self) if each.metadata}
        rows = {phrase: count for phrase, count in told.items() if phrase.startswith("rows")}
        notes = {f"rows {note}": count for note, count in self.notes.items()}
        return [f"{count} {phrase}" for phrase, count in {**rows, **notes, **told}.items() if count]


def summarise_lengths(lengths: Sequence[int]) -> dict[str, int]:
    """Give median, 95th percentile and maximum; nothing for no rows."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    return {"p50": ordered[len(ordered) // 2], "p95": ordered[int(len(ordered) * 0.95)], "max": ordered[-1]}


def count_unwritable(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, to_read: bool = False
) -> dict[str, int]:
    """Count, for every character that is lost between encoding and decoding, the texts that hold it, most first.

    A tokenizer made for children's stories may know no `#` and no `+`; it leaves them out, or puts an unknown token
    in their place, without a word. A character that comes back in another normal form (Unicode NFKC) is not lost.
    Where the model only reads the texts (`to_read`), what the tokenizer itself makes of a character, such as its small
    letter, is as good, and nothing is lost with a character that nobody sees.
    """
    held: Counter[str] = Counter()
    first: dict[str, str] = {}
    for text in texts:
        characters = {each for each in text if not each.isspace() and (each.isprintable() or not to_read)}
        held.update(characters)
        first |= dict.fromkeys(characters - first.keys(), text)
    # Alone, a character may have no token where the words that hold it have one.
    lost = {
        character: count
        for character, count in held.items()
        if not any(
            _comes_back(form, text, tokenizer)
            for form in (character, *(_normalize(character, tokenizer) if to_read else ()))
            for text in (character, first[character])
        )
    }
    return dict(sorted(lost.items(), key=lambda pair: (-pair[1], pair[0])))


def show_characters(counts: Mapping[str, int]) -> str:
    """Write the first of some characters, with the number of rows that hold the most frequent one."""
    first = [each if each.isprintable() else f"U+{ord(each):04X}" for each in list(counts)[:_MOST_CHARACTERS]]
    shown = " ".join(first) + (" ..." if len(counts) > _MOST_CHARACTERS else "")
    return f"{shown} (the first in {next(iter(counts.values()))} rows)"


def _normalize(character: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Give what the tokenizer reads in place of a character, if anything."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    form = normalizer.normalize_str(character).strip() if normalizer is not None else ""
    return (form,) if form else ()


def _comes_back(character: str, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    back = tokenizer.decode([each for each in ids if each != tokenizer.unk_token_id])
    return unicodedata.normalize("NFKC", character) in unicodedata.normalize("NFKC", back)


def _join(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
