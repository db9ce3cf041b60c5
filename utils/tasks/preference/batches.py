"""Batches of answers: the texts of all rows in one batch, padded or concatenated, with the rows' other columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from utils.data.encoding import MASKED
from utils.trainer.flat_batches import FlatCollator

REFERENCE = "reference_log_probs"
"""Column of the reference's log-probabilities of a row's texts, in their order."""
OF_BATCH = (
    "answer_tokens",
    REFERENCE,
    "is_good",
    "kl",
    "margin",
    "advantages",
    "rewards",
    "kept",
    "old",
    "step_tokens",
)
"""Keys of a batch that are not inputs of the model."""


class PreferenceCollator:
    """Collate rows; of pairs, all chosen texts come first, then all rejected ones.

    Besides the model's inputs a batch has `answer_tokens` (the number of scored tokens of each text), the rows'
    `is_good`, `margin` and reference log-probabilities, and in `kl` a second batch, of the columns kl_input_ids and
    kl_labels.
    """

    def __init__(self, pad_id: int, padding_free: bool = False, multiple: int | None = None) -> None:
        self._collate = FlatCollator(pad_id, padding_free=padding_free, pad_to_multiple_of=multiple)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate encoded rows."""
        texts = [_text(row["input_ids"], row["labels"]) for row in rows]
        if "rejected_input_ids" in rows[0]:
            texts += [_text(row["rejected_input_ids"], row["rejected_labels"]) for row in rows]
        batch = self._build(texts)
        if REFERENCE in rows[0]:
            batch[REFERENCE] = torch.tensor([row[REFERENCE] for row in rows], dtype=torch.float32)
        if "margin" in rows[0]:
            batch["margin"] = torch.tensor([row["margin"] for row in rows], dtype=torch.float32)
        if "is_good" in rows[0]:
            batch["is_good"] = torch.tensor([bool(row["is_good"]) for row in rows])
        if "kl_input_ids" in rows[0]:
            batch["kl"] = self._build([_text(row["kl_input_ids"], row["kl_labels"]) for row in rows])
        return batch

    def _build(self, texts: list[dict[str, list[int]]]) -> dict[str, Any]:
        counts = [sum(label != MASKED for label in text["labels"][1:]) for text in texts]
        return {**self._collate(texts), "answer_tokens": torch.tensor(counts)}


def _text(ids: list[int], labels: list[int]) -> dict[str, list[int]]:
    return {"input_ids": ids, "labels": labels}
