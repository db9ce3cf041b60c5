"""Unpacks a zip of row files into the cache folder, and nothing out of it to anywhere else."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from utils.core.cache_folder import cache_folder
from utils.core.errors import DataError

_MOST_BYTES = 4 << 30
"""LongBench's own archive holds a tenth of it."""


def unpack_rows(path: Path) -> Path:
    """Unpack a zip's `.jsonl` files side by side into a folder of the cache, once; other files are left where they are.

    Args:
        path: The zip.

    Returns:
        The folder.

    Raises:
        DataError: It is no zip, or holds what could leave the folder, a link, no rows, or far too many.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:24]
    folder = cache_folder() / "archives" / digest
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive, TemporaryDirectory(dir=folder.parent) as unfinished:
            inner = Path(unfinished) / "rows"
            inner.mkdir()
            for name, member in _choose(path, archive).items():
                with archive.open(member) as packed, (inner / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
            _move(inner, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole zip ({error}); download it again") from error
    except (RuntimeError, NotImplementedError) as error:  # a password; a packing that this Python has not
        raise DataError(f"{path}: cannot be unpacked ({error}); unpack it by hand and name the folder") from error
    return folder


def _choose(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Choose the files of rows by the name that they get."""
    chosen: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        _require_harmless(path, member)
        inside = PurePosixPath(member.filename)
        if member.is_dir() or inside.suffix != ".jsonl" or inside.name.startswith("."):
            continue
        if inside.name in chosen:
            raise DataError(f"{path}: holds two files {inside.name}; unpack it by hand and name one folder")
        chosen[inside.name] = member
    if not chosen:
        raise DataError(f"{path}: holds no .jsonl file")
    size = sum(member.file_size for member in chosen.values())
    if size > _MOST_BYTES:
        raise DataError(f"{path}: would unpack to {size / 2**30:.0f} GiB, which no set of rows is; look what it holds")
    return chosen


def _require_harmless(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
        raise DataError(f"{path}: refused, as it holds {member.filename!r}, a path that leads out of the folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{path}: refused, as it holds a link, {member.filename!r}")


def _move(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was at the same work and is done
            raise
