"""What every dataset room offers: the section's base and the description of a classification set."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

from pydantic import Field

from utils.config.section import Section
from utils.rooms import open_room

FILE_KINDS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip


class DatasetSection(Section):
    """The `dataset:` section; a room may add fields of its own."""

    ALIASES: ClassVar[dict[str, str]] = {
        "text_columns": "text_column", "max_samples": "max_train_samples", "max_seq_length": "max_length",
        "task": "subset", "config": "subset", "dataset_path": "path", "data_path": "path",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"name", "path", "revision", "max_length", "max_train_samples", "max_eval_samples"}
    )
    TASK_TYPES: ClassVar[tuple[str, ...]] = ("SEQ_CLS",)

    name: str
    """A room of `utils/data`, or the hub id, folder or file of your own set (then the room is custom)."""
    path: str | None = None
    """Folder, file or hub id to take the rows from; null: the room's own."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    subset: str | None = None
    """Configuration of the set, such as `cola`."""
    text_column: str | list[str] | None = None
    """One or two columns that hold the text; null: the room's own."""
    label_column: str | None = None
    """The column of the label; null: the room's own."""
    num_labels: int | None = Field(None, ge=1)
    """Number of classes, 1 for regression; null: the room's own, or read from the data."""
    max_length: int = Field(128, ge=1)
    """Tokens a row may have; what is longer is cut at the end, counted and reported."""
    max_train_samples: int | None = Field(None, ge=1)
    """Train on this many rows, drawn by the seed; null: all."""
    max_eval_samples: int | None = Field(None, ge=1)
    """Evaluate on the first this many rows; the result is then marked partial. null: all."""

    def contradictions(self) -> dict[str, str]:
        """Find keys that say otherwise than the set itself, each with what is right."""
        return {}


@dataclass(frozen=True)
class Submission:
    """How predictions of one test split are written for the benchmark's server."""

    split: str
    """The split to predict."""
    subset: str
    """The configuration that holds it."""
    file: str
    """Name of the file, without `.tsv`."""
    kind: Literal["index", "name", "score"]
    """Values as label numbers, label names, or scores clipped to 0-5."""


@dataclass(frozen=True)
class ClassificationSet:
    """A room's four answers for text classification and regression."""

    path: str
    """Folder, file or hub id of the rows."""
    subset: str | None
    """Configuration within it."""
    text_columns: tuple[str, ...]
    """One or two columns."""
    label_column: str
    """The column of the label."""
    num_labels: int | None
    """Classes; 1 for regression; None: read from the data."""
    label_names: tuple[str, ...] | None
    """Names in index order; None: read from the data."""
    metrics: tuple[str, ...]
    """The set's own metrics; the first is the task's metric."""
    train_split: str | None = "train"
    """None: the set cannot be trained on."""
    eval_splits: dict[str, str] = field(default_factory=lambda: {"": "validation"})
    """Evaluation splits by the suffix of their metrics' names."""
    submissions: tuple[Submission, ...] = ()
    """Test splits that a benchmark server scores."""
    validation_path: str | None = None
    """A file of validation rows beside a file of training rows."""
    validation_fraction: float | None = None
    """Hold out this share of the training rows where there is no validation split."""
    revision: str | None = None
    """Revision of a hub dataset."""


class DatasetRoom(Protocol):
    """The functions of a room. `config` is that room's own Config."""

    Config: type[DatasetSection]

    def describe_classification(self, config: Any) -> ClassificationSet:
        """Answer the four questions for SEQ_CLS."""


def open_dataset(name: str) -> DatasetRoom:
    """Open a dataset room.

    Raises:
        KeyError: There is no such room.
    """
    return cast("DatasetRoom", open_room("data", name))


def is_local(path: str) -> bool:
    """Tell a folder or file from a hub id such as `nyu-mll/glue`."""
    written_so = path.startswith(("./", "../", "/", "~")) or path.count("/") > 1 or Path(path).suffix in FILE_KINDS
    return written_so or os.path.exists(os.path.expanduser(path))


def columns(value: str | list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Read one column name or a list of them."""
    if value is None:
        return default
    return (value,) if isinstance(value, str) else tuple(value)
