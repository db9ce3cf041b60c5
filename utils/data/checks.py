"""Looks at rows before anything is trained on them: empty texts, labels, cut rows, unknown characters, leaks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from utils.data.tokenizer_coverage import show_characters

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass
class SplitReport:
    """What was found in one split."""

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
        lengths = ", ".join(f"{name} {value}" for name, value in self.token_lengths.items())
        logger.info("data %s: %d rows, tokens %s%s", self.name, self.rows, lengths, self._counts())
        if absent := [label for label, count in self.label_counts.items() if count == 0]:
            shown = ", ".join(absent[:10]) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
            logger.warning("data %s: these classes never occur: %s", self.name, shown)
        if self.left_out_rows:
            logger.info("data %s: %d further rows are left out", self.name, self.left_out_rows)
        if self.empty_texts:
            logger.warning("data %s: %d rows have an empty text", self.name, self.empty_texts)
        if self.bad_rows:
            logger.warning("data %s: %d bad rows are left out", self.name, self.bad_rows)
        for example in self.bad_examples:
            logger.warning("data %s: left out %s", self.name, example)
        if self.unreadable:
            logger.warning(
                "data %s: the tokenizer does not know these characters, so that the model cannot read them: %s",
                self.name, show_characters(self.unreadable),
            )  # fmt: skip
        if self.shared_with_train:
            logger.warning("data %s: %d rows stand in the training split too", self.name, self.shared_with_train)

    def _counts(self) -> str:
        labels = ", ".join(f"{label} {count}" for label, count in self.label_counts.items())
        cut = (
            f"; {self.truncated_rows} cut ({self.truncated_rows / self.rows:.1%})"
            if self.truncated_rows
            else "; none cut"
        )
        return cut + (f"; labels {labels}" if labels else "")


def check_split(
    name: str, tokens: Dataset, rows: Dataset, text_columns: tuple[str, ...], label_names: tuple[str, ...]
) -> SplitReport:
    """Count what a split holds.

    Args:
        name: The split's name in reports.
        tokens: The tokenised rows.
        rows: The rows as texts, none missing, with `labels` where they are labelled.
        text_columns: Columns of text.
        label_names: Names of the classes; empty for regression.
    """
    lengths = sorted(tokens["length"][:])
    empty = {row for column in text_columns for row, text in enumerate(rows[column]) if not text.strip()}
    labelled = "labels" in rows.column_names and label_names
    counts = Counter(rows["labels"][:]) if labelled else Counter()
    return SplitReport(
        name=name,
        rows=len(rows),
        truncated_rows=sum(tokens["truncated"][:]),
        empty_texts=len(empty),
        token_lengths={
            "p50": lengths[len(lengths) // 2],
            "p95": lengths[int(len(lengths) * 0.95)],
            "max": lengths[-1],
        },
        label_counts={label: counts[index] for index, label in enumerate(label_names)} if labelled else {},
    )


def count_shared_rows(train: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]]) -> int:
    """Count rows whose texts, given by column, all stand in the training rows too."""
    seen = set(zip(*train.values(), strict=True))
    return sum(texts in seen for texts in zip(*other.values(), strict=True))
