"""Finds rows on the hub, in a folder, a file or a zip; every failure is a sentence that says what to do."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from utils.core.cache_folder import cache_folder
from utils.core.errors import DataError
from utils.core.library_errors import describe, is_of_library
from utils.core.replace_file import folder_beside
from utils.core.texts import FILE_KINDS, list_texts
from utils.data.row_files import AS_NAMED, FileFormat, is_local

if TYPE_CHECKING:
    from datasets import Dataset

_SPLIT_NAMES = {"validation": ("validation", "valid", "val", "dev", "eval")}
_DESCRIPTIONS = ("README.md", ".huggingface.yaml")
"""Files where the datasets library looks for the splits of a local folder."""
_MAX_FILES = 100_000
_MAX_BYTES = 4 << 30
"""LongBench's own archive unpacks to a tenth of this."""


@dataclass(frozen=True)
class Source:
    """Location of a dataset's rows."""

    path: str
    """Hub id, folder or file."""
    subset: str | None = None
    """Configuration, or a subfolder."""
    revision: str | None = None
    form: FileFormat = AS_NAMED


def load_split(source: Source, split: str) -> Dataset | None:
    """Load a split from the hub or a folder in the datasets library's layout; None if there is no such split."""
    path = Path(source.path).expanduser()
    local = is_local(source.path)
    if local and (not path.is_dir() or _has_split_files(path, source.subset)):
        return None  # `find_files` finds these, and our own reader knows each row's line
    _require_folder_of_rows(path)
    _refuse_addresses(path)
    with _explain(source):
        try:
            name = str(path) if local else source.path
            return _load_undecoded(name, source.subset, split=split, revision=source.revision)
        except ValueError as error:
            if "nknown split" in str(error):
                return None
            raise


def load_parquet(file: Path, name: str) -> Dataset:
    """Load one parquet file."""
    try:
        return _load_undecoded("parquet", data_files=[str(file)], split="train")
    except Exception as error:  # pyarrow raises many kinds of errors for damaged files
        if not is_of_library(error) or (isinstance(error, OSError) and error.strerror):
            raise
        if "corresponds to no data" in str(error) or "BatchSize must be greater" in _root_message(error):
            raise DataError(f"{name}: the file holds no rows") from error
        raise DataError(f"{name}: cannot be read as parquet: {_root_message(error)}") from error


def download_file(source: Source, name: str) -> Path:
    """Download one file of a hub dataset's repository, or find it in the cache."""
    from huggingface_hub import hf_hub_download

    with _explain(source):
        return Path(hf_hub_download(source.path, name, repo_type="dataset", revision=source.revision))


def find_files(source: Source, split: str) -> list[Path]:
    """Find the local files of a split; empty for a hub id or another layout."""
    if not is_local(source.path):
        return []
    path = Path(source.path).expanduser()
    if not path.exists():
        raise DataError(f"{source.path}: no such file or folder; paths start at the working directory")
    if not path.is_dir():
        return [path] if split == "train" else []
    return _split_files(path, source.subset, split)


def resolved_commit(dataset: Dataset) -> str | None:
    """Return the commit of a dataset loaded from the hub."""
    for url in (dataset.info.download_checksums or {}) if dataset.info else {}:
        if match := re.search(r"@([0-9a-f]{40})/", url):
            return match.group(1)
    return None


def _split_files(folder: Path, subset: str | None, split: str) -> list[Path]:
    """Find `train.jsonl` or `train-00000-of-00002.parquet` in the folder, or in the subset's folder."""
    home = folder / subset if subset and (folder / subset).is_dir() else folder
    there = [file for file in sorted(home.iterdir()) if file.suffix.lower() in FILE_KINDS]
    for name in _SPLIT_NAMES.get(split, (split,)):
        pattern = re.compile(rf"{re.escape(name)}(-\d{{5}}-of-\d{{5}}.*)?$")
        if files := [file for file in there if pattern.match(file.stem)]:
            return [file for file in files if file.suffix == files[0].suffix]
    return []


def _has_split_files(folder: Path, subset: str | None) -> bool:
    return any(_split_files(folder, subset, split) for split in ("train", "validation", "test", "validation_matched"))


def _load_undecoded(*arguments: Any, **keys: Any) -> Dataset:
    """Load rows without decoding images, audio and the like.

    Decoding opens any URL in a row, so rows could fetch what nobody asked for.
    """
    import datasets
    from datasets.features.features import _visit, require_decoding

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # one request for each local file, 3 s behind a firewall
    rows: Dataset = datasets.load_dataset(*arguments, **keys)

    def leave(feature: Any) -> Any:
        if hasattr(feature, "decode") and hasattr(feature, "decode_example"):
            feature.decode = False
        return feature

    features = rows.features.copy()
    return rows.cast(_visit(features, leave)) if any(map(require_decoding, features.values())) else rows


def _refuse_addresses(folder: Path) -> None:
    """Reject a local folder whose description refers to remote rows, which would be fetched even when offline."""
    for file in [folder / name for name in _DESCRIPTIONS if (folder / name).is_file()]:
        for text in list_texts(_read_description(file)):
            if "://" in text:
                raise DataError(
                    f"{file}: names rows at {text}, and a folder's rows are not fetched from elsewhere; download them "
                    f"into the folder, and take that line out of {file.name}"
                )


def _read_description(file: Path) -> Any:
    from huggingface_hub import metadata_load

    try:
        described = metadata_load(file) if file.suffix == ".md" else yaml.safe_load(file.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError):
        raise DataError(f"{file}: its YAML block cannot be read; fix it, or take the file away") from None
    return described.get("configs") if isinstance(described, dict) else None


def _require_folder_of_rows(folder: Path) -> None:
    """Keep the library from searching a whole disk or home folder."""
    count = 0
    for _, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        if count > _MAX_FILES:
            raise DataError(
                f"{folder}: more than {_MAX_FILES:,} files are below it, so it is not a folder of rows; name the "
                "folder or the file that holds them"
            )


@contextmanager
def _explain(source: Source) -> Iterator[None]:
    """Turn the libraries' failures into one sentence each."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name = source.path
    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            message = f"{name} is gated; accept its terms on its page, then `hf auth login`"
        else:
            message = f"{name}: no such dataset on the hub (a typo? private: `hf auth login`), and no such folder here"
        raise DataError(message) from error
    except (ConnectionError, OfflineModeIsEnabled, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise DataError(
            f"{name}: the hub cannot be reached and the set is not in the cache; set HF_ENDPOINT to a mirror, "
            "or name a local folder as its path (dataset.path; of an evaluation set {name: ..., path: FOLDER})"
        ) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{name}: cannot be read: {_root_message(error)}") from error
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        where = name if source.subset is None else f"{name} (subset {source.subset})"
        raise DataError(f"{where}: {describe(error).partition(': ')[2]}") from error
    except Exception as error:  # caused by a damaged file or an invalid name
        if not is_of_library(error):
            raise
        raise DataError(f"{name}: cannot be read: {describe(error)}") from error


def _root_message(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def unpack_rows(path: Path) -> Path:
    """Unpack a zip's `.jsonl` files into a flat folder of the cache, once, writing nothing elsewhere.

    Raises:
        DataError: It is not a zip, contains no rows, unsafe paths or links, or is far too large.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:24]
    folder = cache_folder() / "archives" / digest
    if folder.is_dir():
        return folder
    try:
        with zipfile.ZipFile(path) as archive, folder_beside(folder.with_name("rows")) as inner:
            for name, member in _choose_members(path, archive).items():
                with archive.open(member) as packed, (inner / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
            try:
                inner.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process has unpacked it meanwhile
                    raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: not a whole zip ({error}); download it again") from error
    except (RuntimeError, NotImplementedError) as error:  # a password, or a compression that this Python lacks
        raise DataError(f"{path}: cannot be unpacked ({error}); unpack it by hand and name the folder") from error
    return folder


def _choose_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Choose the files of rows, by the name to extract them to."""
    chosen: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        parts = member.filename.replace("\\", "/").split("/")
        if not parts[0] or ".." in parts or ":" in parts[0]:
            raise DataError(f"{path}: refused, as it holds {member.filename!r}, a path that leads out of the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{path}: refused, as it holds a link, {member.filename!r}")
        inside = PurePosixPath(member.filename)
        if member.is_dir() or inside.suffix != ".jsonl" or inside.name.startswith("."):
            continue
        if inside.name in chosen:
            raise DataError(f"{path}: holds two files {inside.name}; unpack it by hand and name one folder")
        chosen[inside.name] = member
    if not chosen:
        raise DataError(f"{path}: holds no .jsonl file")
    size = sum(member.file_size for member in chosen.values())
    if size > _MAX_BYTES:
        raise DataError(
            f"{path}: would unpack to {size / 2**30:.0f} GiB, too much for a set of rows; check its content"
        )
    return chosen
