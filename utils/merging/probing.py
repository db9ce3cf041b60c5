"""The rows by which a model is known again: the run's own probe rows, or a few texts where there are none."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError

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
            rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{file}: not JSON lines ({error}); delete it, then built-in texts are used") from None
        if rows:
            return Probes(rows[:_NUM_ROWS], PROBE_FILE)
    logger.warning("there are no probe rows of the run; the models are compared on %d built-in texts", len(_TEXTS))
    return Probes([dict.fromkeys(columns, text) for text in _TEXTS], "built-in texts")
