"""Storage formats of a row's hidden states: exact, rounded to bfloat16, or int8 with scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["exact", "bf16", "int8"]

_SCALE_BYTES = 4
# Blocks of this many values stay in a core's cache between the steps of a conversion.
_BLOCK = 262_144


Parts = Mapping[str, torch.Tensor]
"""A stored row: `states`, (num_states, num_tokens, hidden_size), and for int8 `scales`, (num_states, num_tokens, 1)."""


@dataclass(frozen=True)
class RowCodec:
    """Encodes and decodes hidden states of one shape and dtype.

    An int8 scale is one float32 per state and token: largest absolute value / 127. A float32 scale costs 2 /
    hidden_size more than one in half precision, and neither underflows nor overflows, so that the only error is the
    int8 rounding.
    """

    kind: Kind
    """Storage format."""
    num_states: int
    """Number of states per token: the embedding's and one per layer."""
    hidden_size: int
    """Values per state."""
    dtype: torch.dtype
    """The backbone's dtype, which is encoded and decoded to."""

    @property
    def bytes_per_token(self) -> int:
        """Bytes of all states of one token."""
        width: int = {"exact": self.dtype.itemsize, "bf16": 2, "int8": 1}[self.kind]
        return self.num_states * (self.hidden_size * width + (_SCALE_BYTES if self.kind == "int8" else 0))

    def num_bytes(self, num_tokens: int) -> int:
        """Return the number of bytes of a row."""
        return num_tokens * self.bytes_per_token

    def describe(self) -> dict[str, str | int]:
        """Return everything that affects how a row's bytes are read."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"kind": self.kind, "num_states": self.num_states, "hidden_size": self.hidden_size, "dtype": dtype}

    def allocate(self, num_tokens: int) -> dict[str, torch.Tensor]:
        """Allocate the parts of a row."""
        return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in self._layout(num_tokens).items()}

    def view(self, data: torch.Tensor, num_tokens: int) -> dict[str, torch.Tensor]:
        """View the bytes of a row, uint8 at an offset divisible by 4, as its parts."""
        parts, start = {}, 0
        for name, (shape, dtype) in self._layout(num_tokens).items():
            end = start + math.prod(shape) * dtype.itemsize
            parts[name] = data[start:end].view(dtype).view(shape)
            start = end
        return parts

    def fits(self, parts: Parts) -> bool:
        """Return whether parts are those of a row of this codec."""
        states = parts.get("states")
        if states is None or states.dim() != 3:
            return False
        found = {name: (tuple(part.shape), part.dtype) for name, part in parts.items()}
        return found == self._layout(states.shape[1])

    def encode(self, states: torch.Tensor, parts: Parts) -> bool:
        """Store a row's states, on any device and with any strides, into parts from `allocate` or `view`.

        Returns:
            False if int8 cannot hold the row, because a value is infinite or NaN.
        """
        num_tokens = states.shape[1]
        expected = (self.num_states, num_tokens, self.hidden_size)
        assert num_tokens > 0, "a row has a token at least"
        assert states.shape == expected, f"expected states of shape {expected}, got {tuple(states.shape)}"
        assert states.dtype == self.dtype, f"expected {self.dtype}, got {states.dtype}"
        if self.kind != "int8":
            parts["states"].copy_(states)
            return True
        scales, values = parts["scales"], parts["states"]
        step = self._states_per_block(num_tokens)
        for first in range(0, self.num_states, step):
            part = states[first : first + step].float()
            # A state of zeros needs a scale too, to avoid dividing by zero.
            scale = part.abs().amax(-1, keepdim=True).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
            scales[first : first + step].copy_(scale)
            values[first : first + step].copy_((part / scale).round_())
        return bool(torch.isfinite(scales).all())

    def decode(self, parts: Parts, out: torch.Tensor) -> None:
        """Decode what `encode` wrote into `out`, of the backbone's dtype, which may be a slice of a padded batch."""
        values = parts["states"]
        if self.kind != "int8":
            out.copy_(values)
            return
        scales = parts["scales"]
        if self.dtype == torch.float32:
            out.copy_(values).mul_(scales.to(out.device))
            return
        step = self._states_per_block(out.shape[1])
        for first in range(0, self.num_states, step):
            part = slice(first, first + step)
            out[part].copy_(values[part].float().mul_(scales[part]))

    def _layout(self, num_tokens: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return shape and dtype of each part; scales come first, so that float32 is at an offset divisible by 4."""
        shape = (self.num_states, num_tokens, self.hidden_size)
        if self.kind == "int8":
            return {"scales": ((self.num_states, num_tokens, 1), torch.float32), "states": (shape, torch.int8)}
        return {"states": (shape, torch.bfloat16 if self.kind == "bf16" else self.dtype)}

    def _states_per_block(self, num_tokens: int) -> int:
        return max(1, _BLOCK // (num_tokens * self.hidden_size))


def build_codec(section_dtype: str, num_states: int, hidden_size: int, dtype: torch.dtype) -> RowCodec:
    """Choose the format for `peft.cache.dtype`: `auto`, `bf16` or `int8`.

    bf16 only shrinks float32; a half-precision backbone's states are kept exactly.
    """
    shrinks = section_dtype == "int8" or (section_dtype == "bf16" and dtype.itemsize > 2)
    kind: Kind = "exact" if not shrinks else "int8" if section_dtype == "int8" else "bf16"
    return RowCodec(kind, num_states, hidden_size, dtype)
