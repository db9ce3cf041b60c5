"""TRL's collator, whose flattened batches say where each document begins, whatever its version."""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


class FlatCollator(DataCollatorForLanguageModeling):
    """From 1.16 on TRL says so itself; earlier versions leave it to attention, which would find it in every layer."""

    def __call__(self, features: Any, return_tensors: str | None = None) -> dict[str, Any]:
        """Collate rows; with `padding_free` into one row, with what flash attention and recurrent layers take."""
        batch: dict[str, Any] = super().__call__(features, return_tensors)
        if self.padding_free and "cu_seq_lens_q" not in batch:
            places = batch["position_ids"][0]
            starts = torch.cat([(places == 0).nonzero().flatten(), torch.tensor([len(places)])]).to(torch.int32)
            lengths = starts.diff()
            batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = starts
            batch["max_length_q"] = batch["max_length_k"] = int(lengths.max())
            batch["seq_idx"] = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), lengths)[None]
        return batch
