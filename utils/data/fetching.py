"""Keeps a set of rows from fetching what nobody named: addresses in a folder's description, and in its values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from utils.core.errors import DataError
from utils.core.texts import list_texts

if TYPE_CHECKING:
    from datasets import Dataset

_DESCRIPTIONS = ("README.md", ".huggingface.yaml")
"""Where the library looks for the files of a local folder's splits."""

_MOST_FILES = 100_000


def refuse_addresses(folder: Path) -> None:
    """See to it that a local folder's own description names no rows elsewhere: they would be fetched, offline or not.

    Raises:
        DataError: It does, or cannot be read.
    """
    for name in _DESCRIPTIONS:
        file = folder / name
        if not file.is_file():
            continue
        for text in list_texts(_read_description(file)):
            if "://" in text:
                raise DataError(
                    f"{file}: names rows at {text}, and a folder's rows are not fetched from elsewhere; download them "
                    f"into the folder, and take that line out of {name}"
                )


def require_folder_of_rows(folder: Path) -> None:
    """Keep the library from looking for rows below a folder that is a whole disk, or a home.

    Raises:
        DataError: So much lies below it that it can be no folder of rows.
    """
    count = 0
    for _, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        if count > _MOST_FILES:
            raise DataError(
                f"{folder}: more than {_MOST_FILES:,} files lie below it, so it is no folder of rows; name the "
                "folder or the file that holds them"
            )


def keep_undecoded(rows: Dataset) -> Dataset:
    """Leave images, sounds and the like as they are stored: to decode one, the library opens any address in it."""
    from datasets.features.features import _visit, require_decoding

    def leave(feature: Any) -> Any:
        if hasattr(feature, "decode") and hasattr(feature, "decode_example"):
            feature.decode = False
        return feature

    features = rows.features.copy()
    if not any(map(require_decoding, features.values())):
        return rows
    return rows.cast(_visit(features, leave))


def _read_description(file: Path) -> Any:
    from huggingface_hub import metadata_load

    try:
        described = metadata_load(file) if file.suffix == ".md" else yaml.safe_load(file.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError):
        raise DataError(f"{file}: its YAML block cannot be read; mend it, or take the file away") from None
    return described.get("configs") if isinstance(described, dict) else None
