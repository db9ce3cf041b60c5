"""The interface of a row store, and a store in memory, which the system allocates only as rows are written."""

from __future__ import annotations

import logging
import mmap
from abc import ABC, abstractmethod
from pathlib import Path

import torch

from utils.adapters.qst.cache.row_codec import Parts, RowCodec

logger = logging.getLogger(__name__)

_BUFFER_BYTES = 64 * 1024**2
_ALIGNMENT = 64
ROW_OVERHEAD = 320
"""Bytes per row besides its states, for key and position; measured: 210 to 300, depending on the table's load."""


class RowStore(ABC):
    """Stores rows' hidden states by a key of 16 bytes.

    A row is a training row without padding; its states are one tensor (num_states, num_tokens, hidden_size) of the
    backbone's dtype. If there is no space for a row, that is logged once; a full disk is not an error.
    """

    num_rows: int
    """Number of rows that can be read."""
    num_bytes: int
    """Number of bytes that they take."""
    _unit = "GB"

    def __init__(self, codec: RowCodec) -> None:
        self._codec = codec
        self._warned: set[str] = set()

    @property
    def hidden_size(self) -> int:
        """Values per state."""
        return self._codec.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype, in which rows are written and read."""
        return self._codec.dtype

    @property
    def is_exact(self) -> bool:
        """Whether states are restored exactly."""
        return self._codec.kind == "exact"

    @abstractmethod
    def __contains__(self, key: bytes) -> bool:
        """Return whether a row is stored; reading it may still find it damaged."""

    def add(self, key: bytes, states: torch.Tensor) -> bool:
        """Store a row's states, which may be on any device; return False if there is no space."""
        return key in self or self._write(key, states)

    def read(self, key: bytes) -> torch.Tensor | None:
        """Return a row's states on the CPU, or None if it is missing or damaged; a damaged row is forgotten."""
        if (parts := self._load(key)) is None:
            return None
        out = torch.empty(
            (self._codec.num_states, parts["states"].shape[1], self._codec.hidden_size), dtype=self._codec.dtype
        )
        self._codec.decode(parts, out)
        return out

    def read_into(self, key: bytes, out: torch.Tensor, offset: int = 0) -> bool:
        """Write a row's states into out[:, offset : offset + num_tokens], a slice of a padded batch.

        Returns:
            False if the row is missing or damaged; it is then forgotten, and `out` is unchanged.
        """
        if (parts := self._load(key)) is None:
            return False
        end = offset + parts["states"].shape[1]
        assert end <= out.shape[1], f"tokens up to {end} of {out.shape[1]}"
        self._codec.decode(parts, out[:, offset:end])
        return True

    @abstractmethod
    def close(self) -> None:
        """Release files and memory."""

    @abstractmethod
    def _write(self, key: bytes, states: torch.Tensor) -> bool:
        """Store a row that is not stored yet."""

    @abstractmethod
    def _load(self, key: bytes) -> Parts | None:
        """Return a row in its stored form."""

    def _encode(self, states: torch.Tensor, parts: Parts) -> bool:
        if self._codec.encode(states, parts):
            return True
        self._warn_once("infinite", "a row with infinite values cannot be kept as int8; such rows are computed again")
        return False

    def _warn_full(self, reason: str) -> None:
        held = f"{self.num_rows:,} rows are kept in {self.num_bytes / 1024**3:.2f} {self._unit}"
        self._warn_once(
            "full", f"the backbone cache is full: {reason}. {held}; the others are computed again in every epoch"
        )

    def _warn_once(self, kind: str, sentence: str) -> None:
        """Warn once per kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", sentence)


class RamStore(RowStore):
    """Keeps rows in memory, up to `budget` bytes including overhead."""

    _unit = "GB of memory"

    def __init__(self, codec: RowCodec, budget: int) -> None:
        super().__init__(codec)
        self.num_rows = self.num_bytes = 0
        self._budget = budget
        self._rows: dict[bytes, tuple[torch.Tensor, int, int]] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._position = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def close(self) -> None:
        """Release the memory."""
        self._rows.clear()
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._position = self.num_rows = self.num_bytes = 0

    def _write(self, key: bytes, states: torch.Tensor) -> bool:
        size = self._codec.num_bytes(num_tokens := states.shape[1])
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        if self.num_bytes + padded + ROW_OVERHEAD > self._budget:
            self._warn_full("peft.cache.budget_gb is used up")
            return False
        try:
            self._open_buffer(padded)
        except OSError as error:
            self._warn_full(f"the system has no more memory ({error.strerror})")
            return False
        data = self._buffer[self._position : self._position + size]
        if not self._encode(states, self._codec.view(data, num_tokens)):
            return False
        self._rows[key] = (self._buffer, self._position, num_tokens)
        self._position += padded
        self.num_rows += 1
        self.num_bytes += padded + ROW_OVERHEAD
        return True

    def _load(self, key: bytes) -> Parts | None:
        if key not in self._rows:
            return None
        buffer, position, num_tokens = self._rows[key]
        return self._codec.view(buffer[position : position + self._codec.num_bytes(num_tokens)], num_tokens)

    def _open_buffer(self, size: int) -> None:
        """Start a new buffer if the row does not fit into this one, whose unused pages were never touched."""
        if self._position + size > self._buffer.numel():
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._buffer = torch.frombuffer(mmap.mmap(-1, max(size, _BUFFER_BYTES), flags=private), dtype=torch.uint8)
            self._position = 0


def measure_free_memory(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory that this process may still use: the machine's, or the container's if that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            text = (cgroups / limit).read_text().strip()
            taken = int((cgroups / used).read_text()) - _count_reclaimable((cgroups / used).with_name("memory.stat"))
        except OSError:
            continue
        if text.isdigit():
            free = min(free, max(0, int(text) - taken))
    return free


def _count_reclaimable(stat: Path) -> int:
    """Return the bytes of cached files that the system frees when memory is needed."""
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
