"""Puts prompts of like length into batches that keep to a number of rows and of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Batching:
    """What a batch of prompts has to keep to."""

    max_rows: int
    """Rows of a batch."""
    max_tokens: int
    """Tokens of a batch, padding and the answers to come included, unless one row alone has more."""
    max_new_tokens: int
    """Tokens of an answer."""
    num_positions: int | None = None
    """Tokens the model can hold; None: any number."""
    takes_padding: bool = True
    """False: only prompts of equal length go together."""

    def count_space(self, length: int) -> int:
        """Count the tokens that can be written after a prompt of so many."""
        if self.num_positions is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, self.num_positions - length)

    def plan(self, lengths: Sequence[int], rows: Sequence[int]) -> Iterator[list[int]]:
        """Put rows of like length together, longest first; those that leave less room only with their equals.

        Args:
            lengths: Tokens of every prompt.
            rows: Which of them to plan; their order does not matter.
        """
        batch: list[int] = []
        for row in sorted(rows, key=lambda row: (-lengths[row], row)):
            if batch and (
                self._is_full(lengths[batch[0]], len(batch)) or not self._go(lengths[batch[0]], lengths[row])
            ):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _is_full(self, width: int, num_rows: int) -> bool:
        return num_rows == self.max_rows or (num_rows + 1) * (width + self.count_space(width)) > self.max_tokens

    def _go(self, one: int, other: int) -> bool:
        """Tell whether prompts of these lengths go together."""
        if not self.takes_padding:
            return one == other
        return self.count_space(one) == self.count_space(other)
