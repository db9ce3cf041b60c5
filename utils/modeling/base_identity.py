"""Whether two names, or weights on disk, are the same base model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import UserError
from utils.core.json_files import parse_json
from utils.core.model_configs import hash_config
from utils.modeling.quantization import read_format
from utils.modeling.source import find_folder, read_model_config

logger = logging.getLogger(__name__)


def require_same_base(recorded: str, where: str, given: ModelSection, file: str) -> None:
    """Check, as far as possible on this machine, that the user names the recorded base.

    `where` says what recorded the base, `file` where the user names one.

    Raises:
        UserError: The named base is another one, and the recorded one is on this machine.
    """
    if is_same_base(recorded, given.name_or_path):
        return
    config = read_model_config(ModelSection(name_or_path=recorded))
    name = given.name_or_path
    if config is None and not is_local(recorded) and _ends_with(given.location, recorded):
        return  # a relative path, from the folder in which the run was trained
    if config is None:
        logger.warning("%s names the base %s, which is not here; %s of %s is taken for it", where, recorded, name, file)
        return
    if (stored := read_format(config)) and not read_format(read_model_config(given) or {}):
        logger.warning("%s names the base %s, stored as %s; %s of %s is taken for what it was made from",
                       where, recorded, stored, name, file)  # fmt: skip
        return
    raise UserError(
        f"{where} names the base {recorded}, and {file} names {name}: an adapter only works on the base that it was "
        f"trained on; set model.name_or_path: {recorded}"
    )


def _ends_with(folder: str, path: str) -> bool:
    parts = Path(path).parts
    return Path(folder).is_absolute() and Path(folder).is_dir() and Path(folder).parts[-len(parts) :] == parts


def is_same_base(one: str, other: str) -> bool:
    """Return whether two names mean one base: equal, the same folder, or a hub name and its folder in the cache."""
    if one == other:
        return True
    paths = [Path(each).expanduser().resolve() for each in (one, other)]
    if is_local(one) and is_local(other):
        return paths[0] == paths[1]
    pairs = ((one, paths[1]), (other, paths[0]))
    return any(f"models--{name.replace('/', '--')}" in path.parts for name, path in pairs)


_NUM_BLOCKS = 8
_BLOCK = 512
"""In bytes; training, or another release, changes all numbers of a tensor."""
_PATTERNS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin")


def fingerprint_base(section: ModelSection) -> str | None:
    """Hash a base model's weights, however they are split into files, with the standard library alone.

    Returns None if the weights are not on this machine or cannot be read.
    """
    folder = find_folder(section)
    if folder is None:
        return None
    files = next((found for pattern in _PATTERNS if (found := sorted(folder.glob(pattern)))), [])
    try:
        # Sorted, so that the same tensors in other files give the same hash.
        parts = sorted(part for file in files for part in _hash_file(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the loading code will report the problem
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] if parts else None


def fingerprint_config(section: ModelSection) -> str | None:
    """Hash a base model's config.json as far as results depend on it; None if it is not on this machine."""
    keys = read_model_config(section)
    return None if keys is None else hash_config(keys)


def _hash_file(file: Path) -> Iterator[str]:
    with file.open("rb") as opened:
        if file.suffix != ".safetensors":
            size = file.stat().st_size
            yield f"{file.name} {size} {_hash_blocks(opened, 0, size)}"
            return
        length = int.from_bytes(opened.read(8), "little")
        # The length may be garbage: read no more than the file's size.
        header = parse_json(opened.read(min(length, file.stat().st_size)))
        for name, facts in header.items():
            if name != "__metadata__":
                start, end = (8 + length + each for each in facts["data_offsets"])
                yield f"{name} {facts['dtype']} {facts['shape']} {_hash_blocks(opened, start, end)}"


def _hash_blocks(file: BinaryIO, start: int, end: int) -> str:
    """Hash evenly spaced blocks of a range of a file, or all of a short range."""
    digest = hashlib.sha256()
    step = max((end - start) // _NUM_BLOCKS, _BLOCK)
    for place in range(start, end, step):
        file.seek(place)
        digest.update(file.read(min(_BLOCK, end - place)))
    return digest.hexdigest()[:16]
