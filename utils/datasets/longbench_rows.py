"""Opens LongBench's rows wherever they lie: the hub, a folder, one file, or the benchmark's own zip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.row_files import is_local, is_row_file
from utils.data.rows import DatasetTable, RawRow, Rows, Table, cut_rows, join_tables, name_split, open_table
from utils.data.sources import Source, download_file, load_split, resolved_commit, unpack_rows
from utils.datasets.longbench_subsets import E_SUFFIX, find_subset

MIRROR = "Xnhyacinth/LongBench"
"""The rows as parquet files, which the datasets library can load; the benchmark's own page holds a script and a zip."""
ZIPPED = ("thudm/longbench", "zai-org/longbench")
_ZIP = "data.zip"
_COLUMN = "dataset"


@dataclass(frozen=True)
class SubsetTable:
    """Rows of one subset, each with its name."""

    table: Table
    subset: str

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int) -> RawRow:
        """Give a row."""
        return {**self.table.read(index), _COLUMN: self.subset}

    def place(self, index: int) -> str:
        """Name a row."""
        return self.table.place(index)


def open_longbench(source: Source, subsets: Sequence[str], split: str) -> Rows | None:
    """Open the rows of some subsets; the benchmark has one split, `test`, which may be cut.

    Args:
        source: Its path and revision: a hub id, a folder of `<subset>.jsonl`, `<subset>.parquet` or parquet folders,
            the benchmark's zip, or one file whose rows name their subset in the column `dataset`.
        subsets: Names, of LongBench-E too (`hotpotqa_e`).
        split: None is given back unless it is `test`, or `train` of a single file.

    Raises:
        DataError: The source cannot be had or read, or lacks a subset.
    """
    name = name_split(source.path, split)
    path = Path(source.path).expanduser()
    if name != "test" and not (name == "train" and is_row_file(source.path)):
        return None
    if not is_local(source.path):
        rows = _open_from_hub(source, subsets)
    elif not path.exists():
        raise DataError(f"{source.path}: no such file or folder; paths start at the working directory")
    elif path.is_dir():
        rows = _open_folder(path, subsets)
    elif path.suffix == ".zip":
        rows = _open_folder(unpack_rows(path), subsets, path)
    else:
        rows = _open_file(path, subsets)
    return cut_rows(rows, split)


def _open_from_hub(source: Source, subsets: Sequence[str]) -> Rows:
    if source.path.lower() in ZIPPED:
        archive = download_file(source, _ZIP)
        return _open_folder(unpack_rows(archive), subsets, archive)
    tables, commit = [], None
    for subset in subsets:
        dataset = load_split(Source(source.path, subset, source.revision), "test")
        if dataset is None:
            raise DataError(f"{source.path}: no split test of {subset}; leave it out of dataset.subsets")
        commit = resolved_commit(dataset)
        tables.append(SubsetTable(DatasetTable(dataset, f"{source.path} {subset}"), find_subset(subset).name))
    return join_tables(tables, commit)


def _open_folder(folder: Path, subsets: Sequence[str], shown: Path | None = None) -> Rows:
    """Open a folder's file, or folder of files, of each subset."""
    if (folder / _ZIP).is_file() and not any(_find_files(folder, subset) for subset in subsets):
        return _open_folder(unpack_rows(folder / _ZIP), subsets, folder / _ZIP)
    tables = []
    for subset in subsets:
        files = _find_files(folder, subset)
        if not files:
            raise DataError(f"{shown or folder}: no rows of {subset} ({subset}.jsonl); name those that are there under "
                            "dataset.subsets")  # fmt: skip
        tables += [SubsetTable(open_table(file), find_subset(subset).name) for file in files]
    return join_tables(tables)


def _find_files(folder: Path, subset: str) -> list[Path]:
    for home in (folder, folder / "data"):
        for suffix in (".jsonl", ".json", ".parquet"):
            if (home / f"{subset}{suffix}").is_file():
                return [home / f"{subset}{suffix}"]
            if files := sorted((home / subset).glob(f"test*{suffix}")):
                return files
    return []


def _open_file(path: Path, subsets: Sequence[str]) -> Rows:
    """Open one file: of the subset that it is named for, or of rows that name theirs."""
    if path.suffix not in (".jsonl", ".json", ".parquet"):
        raise DataError(f"{path}: neither a zip nor a .jsonl or .parquet file of LongBench's rows")
    table = open_table(path)
    found = [_name_subset(path, table, index) for index in range(len(table))]
    tables: list[Table] = []
    for subset in subsets:
        places = [index for index, name in enumerate(found) if name == subset]
        if not places:
            there = ", ".join(sorted({name for name in found if name})) or "none of a known name"
            raise DataError(f"{path}: no rows of {subset}; there are: {there}; name them under dataset.subsets")
        tables.append(SubsetTable(_Chosen(table, places), find_subset(subset).name))
    return join_tables(tables)


def _name_subset(path: Path, table: Table, index: int) -> str | None:
    try:
        row: dict[str, Any] = table.read(index)
    except RowError as error:
        raise DataError(f"{table.place(index)}: {error}") from error
    name = row.get(_COLUMN, path.stem)
    if isinstance(name, str) and path.stem == f"{name}{E_SUFFIX}":
        return path.stem
    return name if isinstance(name, str) else None


@dataclass(frozen=True)
class _Chosen:
    """Some rows of a table."""

    table: Table
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> RawRow:
        return self.table.read(self.indices[index])

    def place(self, index: int) -> str:
        return self.table.place(self.indices[index])
