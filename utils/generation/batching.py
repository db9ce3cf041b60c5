"""Batches of rows of similar length within limits on rows and tokens, halved if memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.core.errors import DataError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Batching:
    """Limits for batches of prompts, or of rows to classify."""

    max_tokens: int
    """Maximum number of tokens in a batch, including padding and answers, unless a single row has more."""
    max_rows: int | None = None
    """Maximum number of rows in a batch; None: no limit."""
    max_new_tokens: int = 0
    """Maximum number of tokens in an answer; 0: nothing is generated."""
    num_positions: int | None = None
    """Number of tokens the model can hold; None: no limit."""
    takes_padding: bool = True
    """Whether prompts of different lengths may share a batch."""

    def count_space(self, length: int) -> int:
        """Return the number of tokens that can be generated after a prompt of this length."""
        if self.num_positions is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, self.num_positions - length)

    def explain_refusal(self, num_tokens: int) -> str | None:
        """Explain why nothing can be generated after a prompt of `num_tokens` tokens, or return None if it can."""
        if not num_tokens:
            return "is empty; a model needs at least one token to continue"
        if self.count_space(num_tokens) < 1:
            return (
                f"has {num_tokens} tokens, and the model has {self.num_positions} positions; "
                "nothing can be written after it: shorten the prompts"
            )
        return None

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """Warn of prompts that leave fewer than max_new_tokens positions.

        Raises:
            DataError: A prompt is empty, or leaves no position at all.
        """
        spaces = [self.count_space(len(prompt)) for prompt in prompts]
        for index, prompt in enumerate(prompts):
            if reason := self.explain_refusal(len(prompt)):
                raise DataError(f"prompt {index + 1} {reason}")
        if num_short := sum(space < self.max_new_tokens for space in spaces):
            logger.warning(
                "%d of %d prompts leave room for fewer than generation.max_new_tokens (%d) tokens in the model's %s "
                "positions; their answers may be cut off",
                num_short, len(prompts), self.max_new_tokens, self.num_positions,
            )  # fmt: skip

    def plan(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Group rows of similar length, longest first; rows with less space are grouped only with their equals."""
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if batch and not self._takes(batch, lengths[batch[0]], lengths[row]):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _takes(self, batch: list[int], width: int, length: int) -> bool:
        """Return whether a row of this length still fits into a batch of this width."""
        if len(batch) == self.max_rows or (len(batch) + 1) * (width + self.count_space(width)) > self.max_tokens:
            return False
        return self.count_space(width) == self.count_space(length) if self.takes_padding else width == length


def run_halved(
    run: Callable[[Sequence[int]], Sequence[Answer]], batch: Sequence[int], what: str, remedy: str = ""
) -> list[Answer]:
    """Run a batch, halved as often as memory requires; a single row that does not fit is an error."""
    import torch

    try:
        return list(run(batch))
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Outside the handler, whose traceback holds the batch's tensors.
    half = (len(batch) + 1) // 2
    logger.warning("%d %s at once do not fit into memory; trying %d%s", len(batch), what, half, remedy)
    torch.cuda.empty_cache()
    return [each for part in (batch[:half], batch[half:]) for each in run_halved(run, part, what, remedy)]


def find_prompt_limit(window: int, max_new_tokens: int) -> int:
    """Return the maximum length of prompts, leaving max_new_tokens or half of `window` tokens for the answer."""
    return max(window - max_new_tokens, window // 2, 1)
