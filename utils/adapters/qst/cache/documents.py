"""Finds the independent documents of a batch: one per padded row, several per packed row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

KEY_BYTES = 16


@dataclass(frozen=True)
class Document:
    """Tokens of a batch that attend only to each other."""

    row: int
    start: int
    stop: int
    key: bytes
    """Hash of its token ids and everything else that affects its hidden states."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


def find_documents(inputs: dict[str, Any], salt: bytes) -> list[Document] | None:
    """Find the documents of a batch, in order.

    Reads the model's inputs input_ids, shape (rows, tokens), and optional attention_mask, position_ids and
    token_type_ids of the same shape. The salt distinguishes the same tokens under other circumstances.

    Returns:
        None if they cannot be determined: a mask has holes or is not a token mask, or documents share a row that has a
        mask, under which models do not separate them.
    """
    ids = inputs["input_ids"].cpu()
    names = ("attention_mask", "position_ids", "token_type_ids")
    if not all(_fits(inputs.get(name), ids) for name in names):
        return None
    mask, positions, types = (_read(inputs, name, ids) for name in names)
    found = []
    for row in range(len(ids)):
        span = _find_span(mask[row]) if mask is not None else (0, ids.shape[1])
        if span is None:
            return None
        cuts = list(_cut(positions[row] if positions is not None else None, *span))
        if mask is not None and len(cuts) > 1:
            return None
        for start, stop in cuts:
            # Without positions, models count from the left end of the row, including padding.
            place = positions[row, start].item() if positions is not None else start
            parts = [ids[row, start:stop], *([types[row, start:stop]] if types is not None else [])]
            numbers = (int(place), stop - start)
            head = salt + b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)
            digest = hashlib.blake2b(head, digest_size=KEY_BYTES)
            for part in parts:
                digest.update(part.contiguous().numpy().tobytes())
            found.append(Document(row, start, stop, digest.digest()))
    return found


def _fits(given: Any, ids: torch.Tensor) -> bool:
    """Return whether an input has one value per token."""
    return given is None or (isinstance(given, torch.Tensor) and given.shape in (ids.shape, ids[:1].shape))


def _read(inputs: dict[str, Any], name: str, ids: torch.Tensor) -> torch.Tensor | None:
    given = inputs.get(name)
    return None if given is None else given.cpu().expand(ids.shape)


def _find_span(mask: torch.Tensor) -> tuple[int, int] | None:
    kept = mask.bool()
    num_kept = int(kept.sum())
    if not num_kept:
        return None
    start = int(kept.int().argmax())
    return (start, start + num_kept) if bool(kept[start : start + num_kept].all()) else None


def _cut(positions: torch.Tensor | None, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Split where positions restart."""
    if positions is None:
        yield start, stop
        return
    inside = positions[start:stop]
    breaks = (torch.nonzero(inside[1:] != inside[:-1] + 1).flatten() + start + 1).tolist()
    bounds = [start, *breaks, stop]
    yield from pairwise(bounds)
