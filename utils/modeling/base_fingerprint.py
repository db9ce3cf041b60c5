"""Tells whether a base model's weights are the same as before, from parts of each tensor on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.config.sections.model import ModelSection
from utils.core.json_files import parse_json
from utils.modeling.local_files import find_folder

_NUM_BLOCKS = 8
_BLOCK = 512
"""Bytes; training, or another release, moves all numbers of a tensor."""
_PATTERNS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")


def fingerprint_base(section: ModelSection) -> str | None:
    """Hash what a base model's weights are, however they are cut into files; the standard library reads them.

    Args:
        section: Of a folder, or of a model of the hub that was loaded before.

    Returns:
        None where the weights are not on this machine, or cannot be read.
    """
    folder = find_folder(section)
    if folder is None:
        return None
    files = next((found for pattern in _PATTERNS if (found := sorted(folder.glob(pattern)))), [])
    try:
        parts = sorted(part for file in files for part in _hash_file(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whoever loads it will say what is wrong
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] if parts else None


def _hash_file(file: Path) -> Iterator[str]:
    with file.open("rb") as opened:
        if file.suffix != ".safetensors":
            size = file.stat().st_size
            yield f"{file.name} {size} {_hash_blocks(opened, 0, size)}"
            return
        length = int.from_bytes(opened.read(8), "little")
        header = parse_json(opened.read(min(length, file.stat().st_size)))
        for name, facts in header.items():
            if name != "__metadata__":
                start, end = (8 + length + each for each in facts["data_offsets"])
                yield f"{name} {facts['dtype']} {facts['shape']} {_hash_blocks(opened, start, end)}"


def _hash_blocks(file: BinaryIO, start: int, end: int) -> str:
    """Hash evenly spaced blocks of a stretch of a file; all of a short one."""
    digest = hashlib.sha256()
    step = max((end - start) // _NUM_BLOCKS, _BLOCK)
    for place in range(start, end, step):
        file.seek(place)
        digest.update(file.read(min(_BLOCK, end - place)))
    return digest.hexdigest()[:16]
