"""Opens rows wherever they are: a hub id, a folder, a file; every failure is one sentence that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import DataError
from utils.core.library_errors import describe, is_of_library
from utils.core.texts import FILE_KINDS
from utils.data.fetching import keep_undecoded, refuse_addresses, require_folder_of_rows
from utils.data.row_files import AS_NAMED, FileFormat, is_local

if TYPE_CHECKING:
    from datasets import Dataset

_SPLIT_NAMES = {"validation": ("validation", "valid", "val", "dev", "eval")}


@dataclass(frozen=True)
class Source:
    """Where the rows of a set are."""

    path: str
    """Hub id, folder or file."""
    subset: str | None = None
    """Configuration, or a folder within the folder."""
    revision: str | None = None
    """Revision of a hub dataset."""
    form: FileFormat = AS_NAMED
    """How local files are read."""


def load_split(source: Source, split: str) -> Dataset | None:
    """Load a split of the hub, or of a folder in the datasets library's own layout; None when there is none such.

    Raises:
        DataError: The source cannot be had or read.
    """
    path = Path(source.path).expanduser()
    if is_local(source.path) and (not path.is_dir() or _holds_plain_splits(path, source.subset)):
        return None
    require_folder_of_rows(path)
    refuse_addresses(path)
    with _explain(source):
        return _load_dataset(str(path) if is_local(source.path) else source.path, source, split)


def load_parquet(file: Path, name: str) -> Dataset:
    """Load one parquet file.

    Raises:
        DataError: It cannot be read, or holds no rows.
    """
    datasets = _import_datasets()
    try:
        return keep_undecoded(datasets.load_dataset("parquet", data_files=[str(file)], split="train"))
    except Exception as error:  # pyarrow's kinds of damage have no end
        if not is_of_library(error) or (isinstance(error, OSError) and error.strerror):
            raise
        if "corresponds to no data" in str(error):
            raise DataError(f"{name}: the file holds no rows") from error
        raise DataError(f"{name}: cannot be read as parquet: {_root(error)}") from error


def download_file(source: Source, name: str) -> Path:
    """Download one file of a hub dataset's repository, or find it in the cache.

    Raises:
        DataError: It cannot be had.
    """
    from huggingface_hub import hf_hub_download

    with _explain(source):
        return Path(hf_hub_download(source.path, name, repo_type="dataset", revision=source.revision))


def find_files(source: Source, split: str) -> list[Path]:
    """Find the local files of a split; empty where the source is none, or of another layout.

    Raises:
        DataError: The path is local, and there is nothing.
    """
    if not is_local(source.path):
        return []
    path = Path(source.path).expanduser()
    if not path.exists():
        raise DataError(f"{source.path}: no such file or folder; paths start at the working directory")
    if not path.is_dir():
        return [path] if split == "train" else []
    return _split_files(path, source.subset, split)


def resolved_commit(dataset: Dataset) -> str | None:
    """Give the commit of a dataset that came from the hub."""
    for url in (dataset.info.download_checksums or {}) if dataset.info else {}:
        if match := re.search(r"@([0-9a-f]{40})/", url):
            return match.group(1)
    return None


def _split_files(folder: Path, subset: str | None, split: str) -> list[Path]:
    """Find `train.jsonl` or `train-00000-of-00002.parquet` in the folder, or in its folder of the subset."""
    home = folder / subset if subset and (folder / subset).is_dir() else folder
    for name in _SPLIT_NAMES.get(split, (split,)):
        pattern = re.compile(rf"{re.escape(name)}(-\d{{5}}-of-\d{{5}}.*)?$")
        there = [file for file in sorted(home.iterdir()) if file.suffix.lower() in FILE_KINDS]
        files = [file for file in there if pattern.match(file.stem)]
        if files:
            return [file for file in files if file.suffix == files[0].suffix]
    return []


def _holds_plain_splits(folder: Path, subset: str | None) -> bool:
    return any(_split_files(folder, subset, split) for split in ("train", "validation", "test", "validation_matched"))


def _load_dataset(path: str, source: Source, split: str) -> Dataset | None:
    datasets = _import_datasets()
    try:
        return keep_undecoded(datasets.load_dataset(path, source.subset, split=split, revision=source.revision))
    except ValueError as error:
        if "nknown split" in str(error):
            return None
        raise


def _import_datasets() -> Any:
    """Import the library without its count of downloads: one request per local file, 3 s behind a firewall."""
    import datasets

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    return datasets


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
            "or dataset.path to a local folder"
        ) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"{name}: cannot be read: {_root(error)}") from error
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} (subset {source.subset}): {describe(error).partition(': ')[2]}") from error
    except Exception as error:  # what a damaged file, or a name that is none, leads to
        if not is_of_library(error):
            raise
        raise DataError(f"{name}: cannot be read: {describe(error)}") from error


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]
