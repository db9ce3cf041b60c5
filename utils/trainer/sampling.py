"""The order of training rows: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Sampler, SequentialSampler

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments

_BATCHES_PER_POOL = 50  # as in transformers' length grouping: long enough to group well, short enough to mix


class SeededOrder(Sampler[int]):
    """Shuffled rows; with lengths, rows of similar length share a batch and the batches are shuffled.

    transformers' own grouping orders batches from long to short within a pool, so that an epoch of a small set ends
    with its shortest rows; here the batches are shuffled. The longest row comes first, so that memory runs out in the
    first step or never.

    `lengths` are the tokens of each row, None for plain shuffling; `batch_size` is the rows of an optimizer step over
    all processes.
    """

    def __init__(self, num_rows: int, seed: int, lengths: Sequence[int] | None = None, batch_size: int = 1) -> None:
        self._num_rows = num_rows
        self._seed = seed
        self._lengths = lengths
        self._batch_size = batch_size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order; the data loader calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[int]:
        # An own generator: a method's random draws, or resuming, must not change the order.
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self._epoch)
        order = torch.randperm(self._num_rows, generator=generator).tolist()
        return iter(order if self._lengths is None else self._group(order, generator))

    def _group(self, order: list[int], generator: torch.Generator) -> list[int]:
        assert self._lengths is not None, "grouping needs lengths"
        size, lengths = self._batch_size, self._lengths
        order.sort(key=max(order, key=lengths.__getitem__).__ne__)  # the longest row first, the others in order
        pool = size * max(1, min(_BATCHES_PER_POOL, len(order) // (size * 4)))
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            alike = sorted(order[start : start + pool], key=lambda row: -lengths[row])
            batches += [alike[at : at + size] for at in range(0, len(alike), size)]
        # Partial batches come last: in the middle they would shift the rows of all batches after them.
        whole = [batch for batch in batches if len(batch) == size]
        rest = [row for batch in batches if len(batch) < size for row in batch]
        first, others = whole[:1], whole[1:]
        shuffled = [others[index] for index in torch.randperm(len(others), generator=generator).tolist()]
        return [row for batch in [*first, *shuffled] for row in batch] + rest


def build_train_sampler(args: TrainingArguments, rows: Dataset) -> Sampler[int]:
    """Build the sampler of training rows for `train_sampling_strategy`."""
    if args.train_sampling_strategy == "sequential":
        return SequentialSampler(range(len(rows)))
    grouped = args.train_sampling_strategy == "group_by_length" and "length" in rows.column_names
    step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    seed = args.seed if args.data_seed is None else args.data_seed
    return SeededOrder(len(rows), seed, rows["length"][:] if grouped else None, step)
