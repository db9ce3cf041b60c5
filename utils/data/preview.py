"""Shows encoded rows as the model sees them: what is trained on, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from utils.data.encoding import MASKED

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase


def render_preview(rows: Dataset, tokenizer: PreTrainedTokenizerBase, count: int) -> Text:
    """Write the first rows for a terminal: trained tokens green, the others dim.

    Args:
        rows: Encoded rows: input_ids and labels.
        tokenizer: Decodes them, special tokens included.
        count: How many rows to show.
    """
    from rich.text import Text

    text = Text()
    text.append("trained on", style="green").append(", ").append("not trained on\n", style="dim")
    for title, parts in _decode_rows(rows, tokenizer, count):
        text.append(f"\n{title}\n", style="bold")
        for part, trained in parts:
            text.append(part, style="green" if trained else "dim")
        text.append("\n")
    return text


def format_preview(rows: Dataset, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """Write the first rows for a file or a pipe: trained tokens between [[ and ]].

    Args:
        rows: Encoded rows: input_ids and labels.
        tokenizer: Decodes them, special tokens included.
        count: How many rows to show.
    """
    lines = ["[[trained on]], not trained on"]
    for title, parts in _decode_rows(rows, tokenizer, count):
        lines += ["", title, "".join(f"[[{part}]]" if trained else part for part, trained in parts)]
    return "\n".join(lines) + "\n"


def _decode_rows(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, count: int
) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Give a title for every row, and its runs of trained and untrained text."""
    for index in range(min(count, len(rows))):
        row: dict[str, Any] = rows[index]
        labels = row["labels"]
        num_trained = sum(label != MASKED for label in labels)
        runs = groupby(zip(row["input_ids"], labels, strict=True), key=lambda pair: pair[1] != MASKED)
        parts = [
            (tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False), trained)
            for trained, run in runs
        ]
        yield f"row {index + 1} of {len(rows)}: {len(labels)} tokens, {num_trained} trained on", parts
