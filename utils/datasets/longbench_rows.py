"""LongBench's 21 subsets, and their rows on the hub, in a folder, in one file, or in the benchmark's own zip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.row_files import is_local, is_row_file
from utils.data.rows import DatasetTable, DerivedTable, Rows, Table, cut_rows, join_tables, name_split, open_table
from utils.data.sources import Source, download_file, load_split, resolved_commit, unpack_rows
from utils.metrics.longbench_score import CATEGORIES

MIRROR = "Xnhyacinth/LongBench"
"""The rows as parquet, which the datasets library can load; the benchmark's own repository has a script and a zip."""
ZIPPED = ("thudm/longbench", "zai-org/longbench")
E_SUFFIX = "_e"
"""Suffix of a subset in LongBench-E: `hotpotqa_e`."""
_ZIP = "data.zip"
_COLUMN = "dataset"


@dataclass(frozen=True)
class Subset:
    """One row of the benchmark's table."""

    name: str
    language: Literal["en", "zh", "code"]
    max_new_tokens: int
    """Maximum length of a generated answer."""
    chat_exempt: bool = False
    """Whether it is asked without the chat template."""
    in_e: bool = False
    """Whether LongBench-E has it too, with rows of evenly distributed lengths."""

    @property
    def category(self) -> str:
        """Kind of task, as in the benchmark's table."""
        return next(category for category, names in CATEGORIES.items() if self.name in names)


_TABLE = (
    Subset("narrativeqa", "en", 128),
    Subset("qasper", "en", 128, in_e=True),
    Subset("multifieldqa_en", "en", 64, in_e=True),
    Subset("multifieldqa_zh", "zh", 64),
    Subset("hotpotqa", "en", 32, in_e=True),
    Subset("2wikimqa", "en", 32, in_e=True),
    Subset("musique", "en", 32),
    Subset("dureader", "zh", 128),
    Subset("gov_report", "en", 512, in_e=True),
    Subset("qmsum", "en", 512),
    Subset("multi_news", "en", 512, in_e=True),
    Subset("vcsum", "zh", 512),
    Subset("trec", "en", 64, chat_exempt=True, in_e=True),
    Subset("triviaqa", "en", 32, chat_exempt=True, in_e=True),
    Subset("samsum", "en", 128, chat_exempt=True, in_e=True),
    Subset("lsht", "zh", 64, chat_exempt=True),
    Subset("passage_count", "en", 32, in_e=True),
    Subset("passage_retrieval_en", "en", 32, in_e=True),
    Subset("passage_retrieval_zh", "zh", 32),
    Subset("lcc", "code", 64, chat_exempt=True, in_e=True),
    Subset("repobench-p", "code", 64, chat_exempt=True, in_e=True),
)

SUBSETS = {each.name: each for each in _TABLE}
"""Subsets by name, in the benchmark's order."""


def find_subset(name: str) -> Subset:
    """Find a subset by its name, or by its name in LongBench-E.

    Raises:
        KeyError: There is no such subset.
    """
    if name in SUBSETS:
        return SUBSETS[name]
    base = SUBSETS[name.removesuffix(E_SUFFIX)]
    if not name.endswith(E_SUFFIX) or not base.in_e:
        raise KeyError(name)
    return base


def open_longbench(source: Source, subsets: Sequence[str], split: str) -> Rows | None:
    """Open the rows of some subsets; the benchmark's only split is `test`, or a slice of it.

    Args:
        source: A hub id, a folder of `<subset>.jsonl`, `<subset>.parquet` or parquet folders, the benchmark's zip, or
            one file whose rows name their subset in the column `dataset`.
        subsets: Names, including those of LongBench-E (`hotpotqa_e`).
        split: None is returned unless it is `test`, or `train` of a single file.
    """
    name = name_split(source.path, split)
    path = Path(source.path).expanduser()
    if name != "test" and not (name == "train" and is_row_file(source.path)):
        return None
    if not is_local(source.path):
        rows = _open_from_hub(source, subsets)
    elif not path.exists():
        raise DataError(f"{source.path}: no such file or folder; paths start at the working directory")
    elif path.is_dir() or path.suffix == ".zip":
        rows = _open_folder(path, subsets)
    else:
        rows = _open_file(path, subsets)
    return cut_rows(rows, split)


def _name_rows(table: Table, subset: str, places: Sequence[int] | None = None) -> DerivedTable:
    """Return rows of one subset, each with the subset's name."""
    name = find_subset(subset).name
    indices = range(len(table)) if places is None else places
    return DerivedTable(table, indices, lambda _, row: {**row, _COLUMN: name})


def _open_from_hub(source: Source, subsets: Sequence[str]) -> Rows:
    if source.path.lower() in ZIPPED:
        return _open_folder(download_file(source, _ZIP), subsets)
    tables, commit = [], None
    for subset in subsets:
        dataset = load_split(Source(source.path, subset, source.revision), "test")
        if dataset is None:
            raise DataError(f"{source.path}: no split test of {subset}; leave it out of dataset.subsets")
        commit = resolved_commit(dataset)
        tables.append(_name_rows(DatasetTable(dataset, f"{source.path} {subset}"), subset))
    return join_tables(tables, commit)


def _open_folder(path: Path, subsets: Sequence[str]) -> Rows:
    """Open each subset's file, or folder of files, in a folder or zip."""
    if path.is_dir() and (path / _ZIP).is_file() and not any(_find_files(path, subset) for subset in subsets):
        path = path / _ZIP
    folder = path if path.is_dir() else unpack_rows(path)
    tables = []
    for subset in subsets:
        if not (files := _find_files(folder, subset)):
            raise DataError(f"{path}: no rows of {subset} ({subset}.jsonl); name those that are there under "
                            "dataset.subsets")  # fmt: skip
        tables += [_name_rows(open_table(file), subset) for file in files]
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
    """Open one file: of the subset in its name, or of rows that name their subset."""
    if path.suffix not in (".jsonl", ".json", ".parquet"):
        raise DataError(f"{path}: neither a zip nor a .jsonl or .parquet file of LongBench's rows")
    table = open_table(path)
    found = [_read_name(path, table, index) for index in range(len(table))]
    tables = []
    for subset in subsets:
        places = [index for index, name in enumerate(found) if name == subset]
        if not places:
            there = ", ".join(sorted({name for name in found if name})) or "none of a known name"
            raise DataError(f"{path}: no rows of {subset}; there are: {there}; name them under dataset.subsets")
        tables.append(_name_rows(table, subset, places))
    return join_tables(tables)


def _read_name(path: Path, table: Table, index: int) -> str | None:
    try:
        name = table.read(index).get(_COLUMN, path.stem)
    except RowError as error:
        raise DataError(f"{table.place(index)}: {error}") from error
    if isinstance(name, str) and path.stem == f"{name}{E_SUFFIX}":
        return path.stem
    return name if isinstance(name, str) else None
