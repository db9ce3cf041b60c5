"""What a model is known again by: logits of a run's probe rows, or of a few texts where it left none, and a score."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from utils.core.errors import CheckError, UserError
from utils.core.json_files import NotJsonError, parse_json

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

PROBE_FILE = "probe_rows.jsonl"
_NUM_ROWS = 64
_TEXTS = (
    "The film is a quiet triumph, and its last scene stays with you.",
    "Question: A farmer has 12 hens and buys 7 more. How many hens are there now?\nAnswer:",
    "It was not what we had hoped for.",
    "def add(first, second):\n    return first + second",
    "In 1969 two people walked on the moon while a third one waited above them.",
    "yes",
    "Please write to us at the address below if your order has not arrived after ten days.",
    "Which of these sentences, if any, follows from the other? None of them does.",
)


@dataclass(frozen=True)
class Probes:
    """Rows, as the run wrote them."""

    rows: list[dict[str, Any]]
    """Of a classifier: texts by column, and `labels`. Of a language model: the fields of an example, or prompt and
    reference."""
    source: str
    """The file, or `built-in texts`."""


def read_probes(run: Path | None, columns: tuple[str, ...]) -> Probes:
    """Read a run's probe rows.

    Args:
        run: Its folder; None for an adapter that was made elsewhere.
        columns: What a built-in text fills; one column, or two.

    Raises:
        UserError: The file is not JSON lines.
    """
    file = run / PROBE_FILE if run is not None else None
    if file is not None and file.is_file():
        try:
            rows = [parse_json(line) for line in file.read_bytes().split(b"\n") if line.strip()]
        except NotJsonError as error:
            raise UserError(f"{file}: {error}; delete it, then built-in texts are used") from None
        if not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{file}: a line holds no row; delete it, then built-in texts are used")
        if rows:
            return Probes(rows[:_NUM_ROWS], PROBE_FILE)
    logger.warning("there are no probe rows of the run; the models are compared on %d built-in texts", len(_TEXTS))
    return Probes([dict.fromkeys(columns, text) for text in _TEXTS], "built-in texts")


@contextmanager
def explain_damaged_rows(source: str) -> Iterator[None]:
    """Say of probe rows that lack a key, or hold values of another type, that they are damaged.

    Args:
        source: As in `Probes.source`.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{source} is damaged: {reason}; delete it, then built-in texts are used") from error


@dataclass(frozen=True)
class Answers:
    """What a model answered."""

    logits: np.ndarray[Any, Any]
    """Of the probe rows, float32; shape (n, classes or vocabulary)."""
    score: Mapping[str, float] | None
    """By metric; None where no labelled rows are at hand."""


class Probe(Protocol):
    """Rows, made into tokens once."""

    rows: str
    """Where the probe rows come from."""
    num_rows: int
    """Probe rows."""
    scored: str
    """Which rows are scored, or why none are."""
    num_scored: int
    """Rows that are scored."""

    def compute_logits(self, model: PreTrainedModel) -> np.ndarray[Any, Any]:
        """Give the logits of the probe rows, float32; shape (n, classes or vocabulary)."""

    def answer(self, model: PreTrainedModel) -> Answers:
        """Give logits and score."""

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Give the probe rows' tokens."""


def check_tokenizer(probe: Probe, trained: PreTrainedTokenizerBase, written: PreTrainedTokenizerBase) -> None:
    """Prove that the tokenizer that was written is the trained model's.

    Raises:
        CheckError: It cuts a probe row otherwise, or has another pad token, end or chat template.
    """
    names = ("pad_token_id", "eos_token_id", "chat_template")
    changed = [name for name in names if getattr(trained, name) != getattr(written, name)]
    changed += ["its tokens"] if probe.encode(trained) != probe.encode(written) else []
    if changed:
        raise CheckError(f"the written tokenizer is not the trained model's: {', '.join(changed)} differ")
