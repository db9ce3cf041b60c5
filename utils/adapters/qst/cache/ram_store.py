"""Rows kept in memory: in large buffers that the system fills with pages only as rows are written."""

from __future__ import annotations

import logging
import mmap
from pathlib import Path

import torch

from utils.adapters.qst.cache.row_codec import RowCodec

logger = logging.getLogger(__name__)

_BUFFER_BYTES = 64 * 1024**2
_ALIGNMENT = 64
ROW_OVERHEAD = 320
"""Bytes that a row's key and place take beside its states; measured: 210 to 300, by how full the table is."""


class RamStore:
    """Keeps rows in memory, as many as the budget holds.

    Args:
        codec: How a row becomes bytes.
        budget: Bytes that rows may take with all that belongs to them.
    """

    def __init__(self, codec: RowCodec, budget: int) -> None:
        self._codec = codec
        self._budget = budget
        self._used = 0
        self._rows: dict[bytes, tuple[torch.Tensor, int, int]] = {}
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._position = 0
        self._said: set[str] = set()

    @property
    def num_rows(self) -> int:
        """Rows that are here."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Memory that the rows take, with all that belongs to them."""
        return self._used

    @property
    def hidden_size(self) -> int:
        """Values of a state."""
        return self._codec.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype, in which rows are taken and given."""
        return self._codec.dtype

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def add(self, key: bytes, states: torch.Tensor) -> bool:
        """Keep a row's states; False when there is no room for them."""
        if key in self._rows:
            return True
        size = self._codec.num_bytes(num_tokens := states.shape[1])
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        if self._used + padded + ROW_OVERHEAD > self._budget:
            self._say_full("peft.cache.budget_gb is used up")
            return False
        try:
            self._open_buffer(padded)
        except OSError as error:
            self._say_full(f"the system gives no more memory ({error.strerror})")
            return False
        data = self._buffer[self._position : self._position + size]
        if not self._codec.encode(states, self._codec.view(data, num_tokens)):
            self._say("infinite", "a row with infinite values cannot be kept as int8; such rows are computed anew")
            return False
        self._rows[key] = (self._buffer, self._position, num_tokens)
        self._position += padded
        self._used += padded + ROW_OVERHEAD
        return True

    def read(self, key: bytes) -> torch.Tensor | None:
        """Give a row's states, (num_states, num_tokens, hidden_size); None when it is not here."""
        if key not in self._rows:
            return None
        shape = (self._codec.num_states, self._rows[key][2], self._codec.hidden_size)
        out = torch.empty(shape, dtype=self._codec.dtype)
        return out if self.read_into(key, out) else None

    def read_into(self, key: bytes, out: torch.Tensor, offset: int = 0) -> bool:
        """Write a row's states into out[:, offset : offset + num_tokens]; False when it is not here."""
        if key not in self._rows:
            return False
        buffer, position, num_tokens = self._rows[key]
        assert offset + num_tokens <= out.shape[1], f"{num_tokens} tokens at {offset} of {out.shape[1]}"
        data = buffer[position : position + self._codec.num_bytes(num_tokens)]
        self._codec.decode(self._codec.view(data, num_tokens), out[:, offset : offset + num_tokens])
        return True

    def close(self) -> None:
        """Give the memory back."""
        self._rows.clear()
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._position = self._used = 0

    def _open_buffer(self, size: int) -> None:
        """Take a new buffer when the row does not fit into this one; the pages of what is left were never touched."""
        if self._position + size > self._buffer.numel():
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._buffer = torch.frombuffer(mmap.mmap(-1, max(size, _BUFFER_BYTES), flags=private), dtype=torch.uint8)
            self._position = 0

    def _say_full(self, reason: str) -> None:
        held = f"{self.num_rows:,} rows are kept in {self._used / 1024**3:.2f} GB of memory"
        self._say("full", f"the backbone cache is full: {reason}. {held}; the others are computed anew in every epoch")

    def _say(self, kind: str, sentence: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("%s", sentence)


def measure_free_memory(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this process may still take: the machine's, or the container's where that is less."""
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
    """Bytes of cached files that the system gives up when memory is wanted."""
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
