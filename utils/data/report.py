"""The data report: what was found in a split, what was cut, what was left out, and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from utils.data.tokenizer_coverage import show_characters

logger = logging.getLogger(__name__)

_NUM_UNREAD = 20


@dataclass
class InstructionReport:
    """What became of one split's rows."""

    name: str
    rows_read: int = 0
    rows_used: int = 0
    held_out_rows: int = 0
    """Taken out of this split to validate."""
    held_out_ids: list[str] = field(default_factory=list)
    """Their own names, where the set's rows have some."""
    related_rows: int = 0
    """Left out beside them, because they are of one group with a held-out row or have its prompt."""
    left_out_rows: int = 0
    """Kept out by dataset.max_train_samples or max_eval_samples."""
    bad_rows: int = 0
    """Could not be read (dataset.on_bad_row: drop)."""
    bad_examples: list[str] = field(default_factory=list)
    """Place and reason of the first bad rows."""
    empty_rows: int = 0
    """Left out: no token to train on."""
    too_long_rows: int = 0
    """Left out: longer than sft.max_length (dataset.truncation: drop, or the answer would be cut)."""
    prompts_cut: int = 0
    """Rows whose prompt lost its middle."""
    answers_cut: int = 0
    """Rows whose answer lost its end, and with it the end-of-text token."""
    conversations_cut: int = 0
    """Rows that lost later exchanges."""
    cut_turns: int = 0
    """Turns left out because no answer follows them."""
    untrained_turns: int = 0
    """Assistant turns not trained on: empty, or the first of all, which nobody asks for."""
    weightless_turns: int = 0
    """Turns not trained on because their row says so (weight: 0, loss: false, train: false)."""
    num_encoded: int = 0
    """Rows that the rows used became: more where texts are split, or conversations written several times."""
    notes: dict[str, int] = field(default_factory=dict)
    """What else was done to rows, and to how many."""
    unread: dict[str, int] = field(default_factory=dict)
    """Columns, and keys of turns, that nothing reads, and how many rows have each."""
    duplicate_rows: int = 0
    """Rows used that are equal to an earlier one."""
    shared_with_train: int = 0
    """Validation rows whose prompt stands in the training rows too."""
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
        lengths = ", ".join(f"{name} {value}" for name, value in self.token_lengths.items())
        cut = (
            "" if self.token_lengths == self.token_lengths_uncut else f" (max {self.token_lengths_uncut['max']} uncut)"
        )
        became = "" if self.num_encoded in (0, self.rows_used) else f" as {self.num_encoded}"
        logger.info(
            "data %s: %d of %d rows%s, tokens %s%s, %.1f %% trained",
            self.name, self.rows_used, self.rows_read, became, lengths, cut, 100 * self.trained_share,
        )  # fmt: skip
        if self.unread:
            shown = ", ".join(f"{key} ({count} rows)" for key, count in list(self.unread.items())[:_NUM_UNREAD])
            more = "" if len(self.unread) <= _NUM_UNREAD else f" and {len(self.unread) - _NUM_UNREAD} more"
            logger.info("data %s: nothing reads %s%s", self.name, shown, more)
        if changes := self._changes():
            speak = logger.warning if self._is_loss() else logger.info
            speak("data %s: %s", self.name, "; ".join(changes))
        if self.unwritable:
            logger.warning(
                "data %s: the tokenizer cannot write these characters, so that the model can neither read nor learn "
                "them: %s",
                self.name, show_characters(self.unwritable),
            )  # fmt: skip
        for example in self.bad_examples:
            logger.warning("data %s: left out %s", self.name, example)

    def _is_loss(self) -> bool:
        """Tell whether rows are changed or lost in a way that nobody asked for."""
        return any(
            (self.bad_rows, self.empty_rows, self.too_long_rows, self.prompts_cut, self.answers_cut, self.cut_turns)
        ) or any((self.conversations_cut, self.untrained_turns, self.shared_with_train))

    def _changes(self) -> list[str]:
        counted = {
            "held out to validate": self.held_out_rows,
            "left out beside them, of the same group or prompt": self.related_rows,
            "left out by dataset.max_train_samples or max_eval_samples": self.left_out_rows,
            "bad and left out": self.bad_rows,
            "left out without a token to train on": self.empty_rows,
            "longer than sft.max_length and left out": self.too_long_rows,
            "with the prompt's middle cut out": self.prompts_cut,
            "with the end cut off the answer or text (no end-of-text token)": self.answers_cut,
            "without their later exchanges": self.conversations_cut,
            "equal to an earlier row": self.duplicate_rows,
            "with a prompt that stands in the training rows too": self.shared_with_train,
            **self.notes,
        }
        turns = {
            "turns after the last answer left out": self.cut_turns,
            "assistant turns not trained on (empty, or with nothing before them)": self.untrained_turns,
            "assistant turns not trained on by their weight": self.weightless_turns,
        }
        changes = [f"{count} rows {what}" for what, count in counted.items() if count]
        return changes + [f"{count} {what}" for what, count in turns.items() if count]


def summarise_lengths(lengths: Sequence[int]) -> dict[str, int]:
    """Give median, 95th percentile and maximum; nothing for no rows."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    return {"p50": ordered[len(ordered) // 2], "p95": ordered[int(len(ordered) * 0.95)], "max": ordered[-1]}
