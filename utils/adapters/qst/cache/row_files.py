"""A pair of files that holds rows on disk: `rank0.bin` has their bytes, `rank0.index` says where each row is.

The data file only ever grows, and a row's record follows its bytes, so that a process that is killed at any moment
leaves at most bytes that nobody reads. A power cut may lose bytes that were not on the disk yet; the checksum of
each row tells. One process writes a pair, which a lock in `rank0.lock` ensures; any number reads it meanwhile.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash

ALIGNMENT = 64
"""Offsets of rows are multiples of it."""
VERSION = 1
"""Of the layout; files of another one are left aside."""
FILE_OVERHEAD = 64 + ALIGNMENT
"""Bytes that a pair without rows takes at most."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when there is no more room on a disk or in an allowance."""

_MAGIC = b"QSTROWS\0"
_HEADER = struct.Struct("<8sI32s12xQ")
_RECORD = struct.Struct("<16sQQQQ")
_CHECKED = _RECORD.size - 8


@dataclass(frozen=True, slots=True)
class Record:
    """Where one row is."""

    key: bytes
    offset: int
    num_tokens: int
    checksum: int
    """XXH3, 64 bits, of the row's bytes."""


class RejectedError(Exception):
    """An index that cannot be used as a whole; the sentence says why."""


class RowFile:
    """Reads one pair, also while another process adds to it.

    Args:
        index: The pair's index file.
        digest: 32 bytes that stand for the backbone and the layout of its rows.
        bytes_per_token: Of a row's bytes.

    Raises:
        RejectedError: The index is of another backbone, of another layout, or damaged.
        OSError: The files cannot be read.
    """

    def __init__(self, index: Path, digest: bytes, bytes_per_token: int) -> None:
        self.path = index
        self.num_bad = 0
        """Records so far that are damaged, or whose bytes are missing."""
        self.end = 0
        """Where the bytes of the last known row end."""
        self._seed = _seed(digest)
        self._bytes_per_token = bytes_per_token
        self._position = _HEADER.size
        self._map: mmap.mmap | None = None
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._data = -1
        # Held open, so that no new file is given the same number while this object lives.
        self._index = os.open(index, os.O_RDONLY)
        _check_header(os.pread(self._index, _HEADER.size, 0), digest)
        with suppress(FileNotFoundError):  # every record then counts as bad
            self._data = os.open(index.with_suffix(".bin"), os.O_RDONLY)

    def __del__(self) -> None:
        for descriptor in (self._index, self._data) if hasattr(self, "_index") else ():
            if descriptor >= 0:
                os.close(descriptor)

    @property
    def number(self) -> int:
        """The index file's number in its file system; it changes when the file is replaced."""
        return os.fstat(self._index).st_ino

    @property
    def num_torn(self) -> int:
        """Bytes behind the last whole record."""
        return os.fstat(self._index).st_size - self._position

    @property
    def data_size(self) -> int:
        """Bytes of the data file."""
        return os.fstat(self._data).st_size if self._data >= 0 else 0

    def read_new(self) -> list[Record]:
        """Read the records that were added since the last call, without those that are damaged or lack bytes."""
        length = os.fstat(self._index).st_size - self._position
        text = os.pread(self._index, max(0, length) // _RECORD.size * _RECORD.size, self._position)
        num_whole = len(text) // _RECORD.size
        self._position += num_whole * _RECORD.size
        size, records = self.data_size, []
        for start in range(0, num_whole * _RECORD.size, _RECORD.size):
            *fields, own = _RECORD.unpack_from(text, start)
            if own != xxhash.xxh3_64_intdigest(text[start : start + _CHECKED], self._seed):
                self.num_bad += 1
                continue
            record = Record(*fields)
            end = record.offset + record.num_tokens * self._bytes_per_token
            self.end = max(self.end, end)
            if end > size:
                self.num_bad += 1
            else:
                records.append(record)
        return records

    def view(self, record: Record) -> torch.Tensor | None:
        """Show a row's bytes without copying them; None when the file no longer has them or cannot be read."""
        end = record.offset + record.num_tokens * self._bytes_per_token
        try:
            # Touching a mapped page behind the end of a file would kill the process.
            if end > (size := self.data_size):
                return None
            if end > self._bytes.numel():
                self._map = mmap.mmap(self._data, size, access=mmap.ACCESS_READ)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*not writable.*")
                    self._bytes = torch.from_numpy(np.frombuffer(self._map, dtype=np.uint8))
        except (OSError, ValueError):
            return None
        return self._bytes[record.offset : end]

    def release(self, record: Record) -> None:
        """Let go of a row's pages, so that the process does not grow by what it has read; they stay cached."""
        if self._map is not None:
            first = record.offset // mmap.PAGESIZE * mmap.PAGESIZE
            end = record.offset + record.num_tokens * self._bytes_per_token
            self._map.madvise(mmap.MADV_DONTNEED, first, end - first)


def count_bytes(num_bytes: int) -> int:
    """Bytes that a row takes in both files, by those of its states."""
    return align(num_bytes) + _RECORD.size


def align(offset: int) -> int:
    """Give the next offset at which a row may stand."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def compute_checksum(data: torch.Tensor) -> int:
    """Checksum of a row's bytes."""
    return int(xxhash.xxh3_64_intdigest(data.numpy()))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: It could not be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_index(path: Path, digest: bytes, records: Iterable[Record]) -> None:
    """Write a whole index.

    Raises:
        OSError: It could not be written; the old one is as before.
    """
    start = _HEADER.pack(_MAGIC, VERSION, digest, 0)[:-8]
    header = start + xxhash.xxh3_64_intdigest(start).to_bytes(8, "little")
    write_atomically(path, header + b"".join(pack_record(each, digest) for each in records))


def pack_record(record: Record, digest: bytes) -> bytes:
    """Pack a record with a checksum of its own, which the digest seeds: one of another backbone does not fit."""
    fields = _RECORD.pack(record.key, record.offset, record.num_tokens, record.checksum, 0)[:_CHECKED]
    return fields + xxhash.xxh3_64_intdigest(fields, _seed(digest)).to_bytes(8, "little")


def _check_header(text: bytes, digest: bytes) -> None:
    if len(text) < _HEADER.size or not text.startswith(_MAGIC):
        raise RejectedError("its beginning is damaged")
    _, version, own_digest, checksum = _HEADER.unpack(text)
    if version != VERSION:
        raise RejectedError(f"it has layout {version}, not {VERSION}")
    if checksum != xxhash.xxh3_64_intdigest(text[:-8]):
        raise RejectedError("its beginning is damaged")
    if own_digest != digest:
        raise RejectedError("it belongs to another backbone")


def _seed(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")
