"""Adds rows to a pair of files on disk, which one process writes at a time."""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.qst.cache.row_files import (
    Record,
    RejectedError,
    RowFile,
    align,
    compute_checksum,
    pack_record,
    write_index,
)

if TYPE_CHECKING:
    import torch


class RowWriter:
    """Adds rows to a pair that no other process writes.

    A pair that is there already is continued; its index is written anew where records are damaged, and both
    files are where they are of another backbone.

    Args:
        folder: Of the pairs; it exists.
        first: Number to start with; the next free one is taken when another process writes it.
        digest: As for RowFile.
        bytes_per_token: As for RowFile.

    Raises:
        OSError: The files cannot be made, or locked.
    """

    def __init__(self, folder: Path, first: int, digest: bytes, bytes_per_token: int) -> None:
        self._digest = digest
        self._bytes_per_token = bytes_per_token
        self._dropped: set[Record] = set()
        self._lock, number = _lock_next(folder, first)
        index = folder / f"rank{number}.index"
        try:
            self._end = self._take_over(index, bytes_per_token)
            self.file = RowFile(index, digest, bytes_per_token)
            self._data = os.open(index.with_suffix(".bin"), os.O_WRONLY)
            self._index = os.open(index, os.O_WRONLY)
        except BaseException:
            os.close(self._lock)
            raise
        self._size = self.file.data_size
        self._index_end = os.fstat(self._index).st_size

    @property
    def was_tampered_with(self) -> bool:
        """Whether the data file is not as long as this process left it."""
        return self.file.data_size != self._size

    def append(self, key: bytes, num_tokens: int, data: torch.Tensor) -> Record:
        """Write a row, and then its record.

        Args:
            key: 16 bytes.
            num_tokens: Of the row.
            data: uint8, its bytes.

        Raises:
            OSError: They could not be written; both files are as before.
        """
        size = self.file.data_size
        start = max(self._end, size)
        record = Record(key, start, num_tokens, compute_checksum(data))
        try:
            _write_all(self._data, data.numpy(), start)
            _write_all(self._index, packed := pack_record(record, self._digest), self._index_end)
        except OSError:
            os.ftruncate(self._index, self._index_end)
            os.ftruncate(self._data, size)
            raise
        self._index_end += len(packed)
        self._size = start + data.numel()
        self._end = align(self._size)
        return record

    def drop(self, record: Record) -> None:
        """Take a damaged row's record out of the index when it is closed."""
        self._dropped.add(record)

    def close(self) -> None:
        """Give the pair free.

        Raises:
            OSError: The index could not be written without the dropped rows; it is as before.
            RejectedError: Nor could it be read.
        """
        try:
            if self._dropped:
                records = RowFile(self.file.path, self._digest, self._bytes_per_token).read_new()
                write_index(self.file.path, self._digest, (each for each in records if each not in self._dropped))
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # a forked child may hold it open too
            for descriptor in (self._data, self._index, self._lock):
                os.close(descriptor)

    def _take_over(self, index: Path, bytes_per_token: int) -> int:
        """Bring a pair into order, and say where new bytes may stand."""
        data, end = index.with_suffix(".bin"), 0
        records: list[Record] = []
        try:
            old = RowFile(index, self._digest, bytes_per_token)
        except (FileNotFoundError, RejectedError):
            # Unlinked, not emptied: another process may have mapped them.
            index.unlink(missing_ok=True)
            data.unlink(missing_ok=True)
        else:
            records = old.read_new()
            # Bytes once named by a record are never written again: another process may know it.
            end = align(max(old.end, old.data_size))
            if data.exists() and not old.num_bad and not old.num_torn:
                return end
        data.touch()
        write_index(index, self._digest, records)
        return end


def _lock_next(folder: Path, first: int) -> tuple[int, int]:
    """Lock the first pair from a number on that no other process writes; give the lock and the number."""
    for number in count(first):
        lock = os.open(folder / f"rank{number}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        except OSError:
            os.close(lock)
            raise
        else:
            return lock, number
    raise AssertionError("numbers do not end")


def _write_all(descriptor: int, content: Any, offset: int) -> None:
    """Write bytes at an offset; a disk that is nearly full takes a part of them first."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
