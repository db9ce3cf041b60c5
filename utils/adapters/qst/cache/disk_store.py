"""Caches rows on disk: one safetensors file per row, shared by processes and by later runs.

`<identity>/<first two digits of the key>/<key>.safetensors` holds a row's states and, in its metadata, a checksum.
Files are written next to their place and renamed, so that a process killed at any moment leaves either the whole row or
none; after a power cut, which may lose unwritten bytes, the checksum reveals damage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save

from utils.adapters.qst.cache.row_codec import Parts, RowCodec
from utils.adapters.qst.cache.row_store import RowStore
from utils.core.json_files import parse_json
from utils.core.library_errors import is_full_disk

logger = logging.getLogger(__name__)

_VERSION = 2
"""Version of the layout; part of a cache's identity."""
FILE_OVERHEAD = 512
"""Maximum size of a file's header in bytes."""
_UNFINISHED = ".part"


class DiskStore(RowStore):
    """Keeps rows in files, and reads those of all processes, past and present.

    Opening only reads; `start_writing` creates the folder. A row whose file is damaged, cut off, or of another backbone
    is reported, computed again and rewritten. `folder` holds all caches; this one's subfolder is named by its
    `identity`, the facts that the states depend on (model files, quantization, layers), and stores it as JSON.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], codec: RowCodec) -> None:
        super().__init__(codec)
        whole = {"layout": _VERSION, "rows": codec.describe(), "identity": dict(identity)}
        # Canonical, so that every process uses the same folder.
        self._identity = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
        self._digest = hashlib.blake2b(self._identity, digest_size=16).hexdigest()
        self.folder = folder / self._digest
        self.allowance = 0
        """Bytes that this process may still write."""
        self._is_writing = False
        self._damaged: set[bytes] = set()
        self._num_damaged = 0
        found = list(_scan(self.folder))
        self._unfinished = [Path(each) for each in found if each.name.endswith(_UNFINISHED)]
        # Counts rows found on opening, and this process's own since.
        self.num_rows = len(found) - len(self._unfinished)
        self.num_bytes = sum(each.stat().st_size for each in found)

    def __contains__(self, key: bytes) -> bool:
        return key not in self._damaged and self._path(key).exists()

    def measure_free(self) -> int:
        """Return the number of free bytes on the cache's disk."""
        existing = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        return shutil.disk_usage(existing).free

    def start_writing(self, allowance: int) -> None:
        """Create the folder, and allow `allowance` more bytes to be written.

        Raises:
            OSError: The folder cannot be written; a full disk is not an error.
        """
        self.allowance = allowance
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace_file(self.folder / "identity.json", self._identity)
            for path in self._unfinished:
                _remove_abandoned(path)
        except OSError as error:
            if not is_full_disk(error):
                raise
            self._stop_writing(error)
            return
        self._is_writing = True

    def _write(self, key: bytes, states: torch.Tensor) -> bool:
        if not self._is_writing:
            return False
        num_tokens = states.shape[1]
        if self._codec.num_bytes(num_tokens) + FILE_OVERHEAD > self.allowance:
            self._warn_full("peft.cache.budget_gb is used up")
            return False
        parts = self._codec.allocate(num_tokens)
        if not self._encode(states, parts):
            return False
        content = save(parts, {"checksum": self._compute_checksum(key, parts)})
        try:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace_file(path, content)
        except OSError as error:
            self._stop_writing(error)
            return False
        self._damaged.discard(key)  # it has just been rewritten
        self.allowance -= len(content)
        self.num_rows += 1
        self.num_bytes += len(content)
        return True

    def close(self) -> None:
        """Stop writing, and log how many rows were damaged."""
        if self._num_damaged > 1:
            logger.warning("%s: %s rows in all were damaged", self.folder, f"{self._num_damaged:,}")
        self._is_writing = False

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _load(self, key: bytes) -> Parts | None:
        """Read a row's file, forgetting a damaged one."""
        if key in self._damaged:
            return None
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._reject(key, f"{path} cannot be read ({error.strerror})")
            return None
        parts = self._parse(key, content)
        if parts is None:
            self._reject(key, f"{path} is damaged")
        return parts

    def _parse(self, key: bytes, content: bytes) -> dict[str, torch.Tensor] | None:
        """Parse a file's bytes; None if they are not what was written under this key for this backbone."""
        try:
            parts = load(content)
            header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        except (SafetensorError, ValueError, KeyError):  # KeyError: a dtype that torch lacks
            return None
        checksum = header.get("__metadata__", {}).get("checksum")
        whole = self._codec.fits(parts) and checksum == self._compute_checksum(key, parts)
        return parts if whole else None

    def _compute_checksum(self, key: bytes, parts: Parts) -> str:
        """Compute XXH3, 128 bits, of the backbone, the key and the row's bytes."""
        digest = xxhash.xxh3_128(self._digest.encode() + key)
        for name, part in sorted(parts.items()):
            digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _reject(self, key: bytes, reason: str) -> None:
        self._damaged.add(key)
        self._num_damaged += 1
        self._warn_once("damaged", f"{reason}; the row is computed again")

    def _stop_writing(self, error: OSError) -> None:
        self._warn_full(f"{self.folder} is full ({error.strerror or os.strerror(error.errno or 0)})")
        self._is_writing = False


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files of all rows, of which there may be hundreds of thousands, and unfinished ones."""
    with suppress(FileNotFoundError):
        for part in os.scandir(folder):
            if part.is_dir():
                yield from os.scandir(part)


def _remove_abandoned(path: Path) -> None:
    """Remove a file left by a killed process; a running one would finish within an hour."""
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > 3600:
            path.unlink()


def _replace_file(path: Path, content: bytes) -> None:
    """Write a file next to its place and rename it, leaving nothing if that fails."""
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
