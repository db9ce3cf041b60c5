"""Opens GLUE as its makers publish it: a folder for each task, with tab-separated files under columns of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.row_files import FileFormat, is_local
from utils.data.rows import Rows, Table, open_file, open_rows
from utils.data.sources import Source

_FILES = {
    "validation": ("dev",),
    "validation_matched": ("dev_matched",),
    "validation_mismatched": ("dev_mismatched",),
}
"""Names of a split's file, where they are not the split's own."""


@dataclass(frozen=True)
class _Folder:
    name: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    """The hub's names of columns, by the download's."""
    headerless: tuple[str, ...] = ()


_NLI = {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}
_MRPC = {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}
_FOLDERS = {
    "cola": _Folder("CoLA", headerless=("source", "label", "star", "sentence")),
    "sst2": _Folder("SST-2"),
    "mrpc": _Folder("MRPC", _MRPC),
    "qqp": _Folder("QQP", {"is_duplicate": "label"}),
    "stsb": _Folder("STS-B", {"score": "label"}),
    "mnli": _Folder("MNLI", _NLI),
    "qnli": _Folder("QNLI"),
    "rte": _Folder("RTE"),
    "wnli": _Folder("WNLI"),
    "ax": _Folder("AX", _NLI),
}
_PAIR = ("#1 ID", "#2 ID")
_OTHER_NAMES = {"ax": ("diagnostic",)}
_OTHER_FILES = {"ax": {"test": ("AX", "diagnostic", "test")}}


def renamed_columns(subset: str) -> Mapping[str, str]:
    """Give the hub's names of a task's columns, by the download's."""
    return _FOLDERS[subset].renamed


def open_glue(source: Source, split: str) -> Rows | None:
    """Open a split of a task, in the download's layout where the path is one, else in the hub's.

    Args:
        source: With the task as its subset; its path is the hub's id, or a folder: of all tasks, or the task's own.
        split: By the hub's name.

    Raises:
        DataError: It cannot be had or read, or the folder is a download without this task.
    """
    assert source.subset is not None, f"{source.path} has tasks"
    folder = _FOLDERS[source.subset]
    form = FileFormat(quoting=source.form.quoting, headerless=folder.headerless, renamed=folder.renamed)
    home = _find_home(source, source.subset)
    if home is None:
        return open_rows(replace(source, form=form), split)
    names = _OTHER_FILES.get(source.subset, {}).get(split) or _FILES.get(split, (split,))
    file = next((home / f"{name}.tsv" for name in names if (home / f"{name}.tsv").is_file()), None)
    if file is not None:
        return open_file(str(file), form)
    return _open_paraphrases(home, split, form) if source.subset == "mrpc" else None


def _find_home(source: Source, subset: str) -> Path | None:
    """Find the task's folder of a download; None: the path is none."""
    path = Path(source.path).expanduser()
    if not is_local(source.path) or not path.is_dir():
        return None
    names = (_FOLDERS[subset].name, *_OTHER_NAMES.get(subset, ()))
    if path.resolve().name in names and any(path.glob("*.ts[v]")):
        return path
    found = next((path / name for name in names if (path / name).is_dir() and name != subset), None)
    others = [each.name for each in _FOLDERS.values() if (path / each.name).is_dir()]
    if found is None and others and not (path / subset).is_dir():
        raise DataError(f"{source.path}: no folder {names[0]}; there are: {', '.join(others)}")
    return found


def _open_paraphrases(home: Path, split: str, form: FileFormat) -> Rows | None:
    """Open MRPC as Microsoft publishes it: the training file holds the development rows, which dev_ids.tsv names."""
    part = "test" if split == "test" else "train"
    file, ids = home / f"msr_paraphrase_{part}.txt", home / "dev_ids.tsv"
    if split not in ("train", "validation", "test") or not file.is_file():
        return None
    rows = open_file(str(file), FileFormat(".tsv", form.quoting, renamed=form.renamed))
    if split == "test":
        return rows
    if not ids.is_file():
        raise DataError(f"{ids}: no such file; it names the rows of {file.name} that are for development")
    (listed,) = open_file(str(ids), FileFormat(headerless=_PAIR)).tables
    named = {_read_pair(listed, index) for index in range(len(listed))} - {None}
    (table,) = rows.tables
    wanted = split == "validation"
    return Rows((table,), [index for index in range(len(table)) if (_read_pair(table, index) in named) == wanted])


def _read_pair(table: Table, index: int) -> tuple[object, ...] | None:
    """Read by which numbers a row is named; None: it cannot be read, which is said where its text is wanted."""
    try:
        row = table.read(index)
    except RowError:
        return None
    return tuple(row.get(column) for column in _PAIR)
