"""Rows kept on disk: one folder per backbone, read by memory map, shared by processes and by later runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.adapters.qst.cache.row_codec import RowCodec
from utils.adapters.qst.cache.row_files import (
    FILE_OVERHEAD,
    FULL,
    VERSION,
    Record,
    RejectedError,
    RowFile,
    compute_checksum,
    count_bytes,
    write_atomically,
)
from utils.adapters.qst.cache.row_writer import RowWriter

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(slots=True)
class _Place:
    """Where a row is."""

    file: RowFile
    record: Record
    is_checked: bool = False
    """Whether its bytes were compared with their checksum."""


class DiskStore:
    """Keeps rows in files; those of all processes, past and present, are read.

    Opening only reads; `start_writing` makes the folder. A row's checksum is compared when this process reads it
    first and not again, so that later reads cost a copy. What is damaged, cut off, or of another layout or backbone
    is said, left aside and computed anew.

    Args:
        folder: Of all caches; this one's folder in it is named by its identity.
        identity: What the states depend on: model files, quantization, layers. As JSON it stands in the folder.
        codec: How a row becomes bytes.
        number: Of the pair of files to write, usually the process's rank.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], codec: RowCodec, number: int) -> None:
        self._identity = describe_identity(identity, codec)
        self._digest = hashlib.blake2b(self._identity, digest_size=32).digest()
        self.folder = folder / self._digest.hex()[:32]
        self.allowance = 0
        """Bytes that this process may still write."""
        self._codec = codec
        self._number = number
        self._writer: RowWriter | None = None
        self._rows: dict[bytes, _Place] = {}
        self._spare: dict[bytes, list[_Place]] = {}
        self._files: dict[tuple[str, int], RowFile] = {}
        self._rejected: dict[str, tuple[int, int]] = {}
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._num_bytes = self._num_damaged = 0
        self._said: set[str] = set()
        self._look()

    @property
    def num_rows(self) -> int:
        """Rows that can be read."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Bytes that their states take on disk."""
        return self._num_bytes

    @property
    def hidden_size(self) -> int:
        """Values of a state."""
        return self._codec.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype, in which rows are given."""
        return self._codec.dtype

    def __contains__(self, key: bytes) -> bool:
        if key not in self._rows and time.monotonic() >= self._next_look:
            try:
                self._look()  # another process may have added it
            except OSError as error:
                self._say("look", f"{self.folder} cannot be read ({error.strerror}); other processes' rows are missed")
        return key in self._rows

    def measure_room(self) -> tuple[int, int]:
        """Bytes that this cache's files take, and bytes that are free on the disk."""
        taken = 0
        for file in self.folder.glob("rank*.*"):
            with suppress(FileNotFoundError):
                taken += file.stat().st_size
        existing = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return taken, shutil.disk_usage(existing).free

    def start_writing(self, allowance: int) -> None:
        """Make the folder and this process's files in it, for at most so many more bytes.

        Raises:
            OSError: The folder cannot be written; a full disk is no error.
        """
        self.allowance = allowance - FILE_OVERHEAD
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_identity()
            self._writer = RowWriter(self.folder, self._number, self._digest, self._codec.bytes_per_token)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._stop_writing(error)
            return
        own = self._writer.file
        self._files[own.path.name, own.number] = own
        self._keep_new(own)

    def add(self, key: bytes, states: torch.Tensor) -> bool:
        """Write a row's states; False when there is no room for them."""
        assert len(key) == 16, f"a key has 16 bytes, got {len(key)}"
        if key in self._rows:
            return True
        size = self._codec.num_bytes(num_tokens := states.shape[1])
        if self._writer is None:
            return False
        if count_bytes(size) > self.allowance:
            self._say_full("peft.cache.budget_gb is used up")
            return False
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size, dtype=torch.uint8)
        if not self._codec.encode(states, self._scratch[:size]):
            self._say("infinite", "a row with infinite values cannot be kept as int8; such rows are computed anew")
            return False
        if self._writer.was_tampered_with:
            self._doubt(self._writer.file)
        try:
            record = self._writer.append(key, num_tokens, self._scratch[:size])
        except OSError as error:
            self._stop_writing(error)
            return False
        self.allowance -= count_bytes(size)
        self._keep(_Place(self._writer.file, record))
        return True

    def read(self, key: bytes) -> torch.Tensor | None:
        """Give a row's states, (num_states, num_tokens, hidden_size); None when it is not here or damaged."""
        while (place := self._rows.get(key)) is not None:
            shape = (self._codec.num_states, place.record.num_tokens, self._codec.hidden_size)
            out = torch.empty(shape, dtype=self._codec.dtype)
            if self._read_place(place, out):
                return out
        return None

    def read_into(self, key: bytes, out: torch.Tensor, offset: int = 0) -> bool:
        """Write a row's states into out[:, offset : offset + num_tokens]; False when it is not here or damaged."""
        while (place := self._rows.get(key)) is not None:
            end = offset + place.record.num_tokens
            assert end <= out.shape[1], f"{place.record.num_tokens} tokens at {offset} of {out.shape[1]}"
            if self._read_place(place, out[:, offset:end]):
                return True
        return False

    def close(self) -> None:
        """Give the files free; how many rows were damaged is said."""
        if self._num_damaged > 1:
            logger.warning("%s: %s rows in all were damaged", self.folder, f"{self._num_damaged:,}")
        self._close_writer()
        self._rows.clear()
        self._spare.clear()
        self._files.clear()
        self._num_bytes = 0

    def _read_place(self, place: _Place, out: torch.Tensor) -> bool:
        """Read a row; where it is damaged it is forgotten, and `out` is as before."""
        data = place.file.view(place.record)
        if data is not None and (place.is_checked or compute_checksum(data) == place.record.checksum):
            place.is_checked = True
            self._codec.decode(data, out)
            place.file.release(place.record)
            return True
        self._num_damaged += 1
        self._say("damaged", f"{place.file.path.with_suffix('.bin')}: a row is damaged; it is computed anew")
        self._forget(place)
        return False

    def _look(self) -> None:
        """Read what was added to the folder since the last look."""
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        for path in sorted(self.folder.glob("rank*.index")):
            with suppress(FileNotFoundError):  # replaced at this moment
                self._open_file(path)
        own = self._writer.file if self._writer is not None else None
        for file in self._files.values():
            if file is not own:
                num_bad = file.num_bad
                self._keep_new(file)
                if file.num_bad > num_bad:
                    lost = file.num_bad - num_bad
                    logger.warning("%s: %s rows are damaged or cut off; they are computed anew", file.path, f"{lost:,}")

    def _open_file(self, path: Path) -> None:
        """Open an index that is new here; one that cannot be used is named once."""
        status = path.stat()
        state = (status.st_ino, status.st_mtime_ns)
        if (path.name, status.st_ino) in self._files or self._rejected.get(path.name) == state:
            return
        try:
            self._files[path.name, status.st_ino] = RowFile(path, self._digest, self._codec.bytes_per_token)
        except RejectedError as error:
            self._rejected[path.name] = state
            logger.warning("%s is left aside: %s; its rows are computed anew", path, error)
        except PermissionError as error:
            self._rejected[path.name] = state
            logger.warning("%s cannot be read (%s); its rows are computed anew", path, error.strerror)

    def _keep_new(self, file: RowFile) -> None:
        for record in file.read_new():
            self._keep(_Place(file, record))

    def _keep(self, place: _Place) -> None:
        """Know a row; a second copy of one is kept in mind, should the first be damaged."""
        key = place.record.key
        if key not in self._rows:
            self._rows[key] = place
            self._num_bytes += self._codec.num_bytes(place.record.num_tokens)
        elif self._rows[key].record != place.record:
            self._spare.setdefault(key, []).append(place)

    def _forget(self, place: _Place) -> None:
        key = place.record.key
        del self._rows[key]
        self._num_bytes -= self._codec.num_bytes(place.record.num_tokens)
        if self._writer is not None and place.file.path == self._writer.file.path:
            self._writer.drop(place.record)
        if spare := self._spare.pop(key, None):
            self._keep(spare.pop())
            self._spare |= {key: spare} if spare else {}

    def _doubt(self, file: RowFile) -> None:
        """Compare the checksums of a file's rows again: another has cut it."""
        self._say("tampered", f"{file.path.with_suffix('.bin')} was changed by another program; its rows are checked")
        for place in self._rows.values():
            place.is_checked = place.is_checked and place.file.path != file.path

    def _write_identity(self) -> None:
        path = self.folder / "identity.json"
        found = path.read_bytes() if path.exists() else None
        if found not in (None, self._identity):
            logger.warning("%s is not this cache's; it is written anew, and rows of another backbone left aside", path)
        if found != self._identity:
            write_atomically(path, self._identity)

    def _stop_writing(self, error: OSError) -> None:
        self._say_full(f"{self.folder} takes no more ({error.strerror or os.strerror(error.errno or 0)})")
        self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            writer.close()
        except (OSError, RejectedError) as error:
            logger.warning("%s: damaged rows stay in the index (%s)", self.folder, error)

    def _say_full(self, reason: str) -> None:
        held = f"{self.num_rows:,} rows are kept in {self._num_bytes / 1024**3:.2f} GB"
        self._say("full", f"the backbone cache is full: {reason}. {held}; the others are computed anew in every epoch")

    def _say(self, kind: str, sentence: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("%s", sentence)


def describe_identity(identity: Mapping[str, Any], codec: RowCodec) -> bytes:
    """Write what a cache's rows depend on, the same in every process: canonical JSON."""
    whole = {"layout": VERSION, "rows": codec.describe(), "identity": dict(identity)}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
