"""TRL's collator, with document boundaries in flattened batches for every version of TRL."""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


class FlatCollator(DataCollatorForLanguageModeling):
    """TRL adds them from 1.16 on; with earlier versions every attention layer would have to find them."""

    def __call__(self, features: Any, return_tensors: str | None = None) -> dict[str, Any]:
        """Collate rows; with `padding_free` into one row with the inputs of flash attention and recurrent layers."""
        batch: dict[str, Any] = super().__call__(features, return_tensors)
        if self.padding_free and "cu_seq_lens_q" not in batch:
            places = batch["position_ids"][0]
            starts = torch.cat([(places == 0).nonzero().flatten(), torch.tensor([len(places)])]).to(torch.int32)
            lengths = starts.diff()
            batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = starts
            batch["max_length_q"] = batch["max_length_k"] = int(lengths.max())
            batch["seq_idx"] = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), lengths)[None]
        return batch
