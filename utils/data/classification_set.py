"""How a dataset plug-in describes a set for text classification and regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from utils.data.row_files import AS_NAMED, FileFormat

if TYPE_CHECKING:
    from utils.data.rows import Rows


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
    """A dataset's four answers for text classification and regression."""

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
    validation_size: float | None = None
    """Hold out so many rows, or below 1 this share of them, where there is no validation split."""
    revision: str | None = None
    """Revision of a hub dataset."""
    form: FileFormat = AS_NAMED
    """How local files are read."""
    open_split: Callable[[str, str | None], Rows | None] | None = None
    """Opens a split of a subset where files may lie otherwise than by the splits' names; None: there is no such."""
