"""GLUE: nine tasks and the diagnostic set.

A row of `cola`: {"sentence": "They drank the pub dry.", "label": 1, "idx": 7}. Source: Wang et al. 2019,
arXiv:1804.07461; names, labels and metrics as in the hub's nyu-mll/glue and the `glue` metric; file names and values as
the benchmark's server expects them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from utils.config.sections.dataset import ClassificationSection
from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.dataset import ClassificationSet, Submission, as_columns
from utils.data.row_files import FileFormat, is_local
from utils.data.rows import Rows, Table, open_file, open_rows
from utils.data.sources import Source

HUB_ID = "nyu-mll/glue"
HUB_NAMES = ("glue", "nyu-mll/glue")


@dataclass(frozen=True)
class _Task:
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    file: str
    """Name of the file of predictions."""
    values: Literal["index", "name", "score"]
    renamed: Mapping[str, str] = field(default_factory=dict)
    """The hub's column names, by those of the official download."""
    headerless: tuple[str, ...] = ()
    """Columns of the download's files, if they have no header."""

    @property
    def folder(self) -> str:
        """Name of the task's folder in the download."""
        return self.file.removesuffix("-m")


_COLA = ("unacceptable", "acceptable")
_PAIR = ("sentence1", "sentence2")
_QUESTIONS = ("question1", "question2")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_COLA_FILE = ("source", "label", "star", "sentence")
_MRPC_FILE = {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"}
_QQP_FILE = {"is_duplicate": "label"}
_NLI_FILE = {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}

TASKS = {
    "cola": _Task(("sentence",), _COLA, ("matthews_correlation",), "CoLA", "index", headerless=_COLA_FILE),
    "sst2": _Task(("sentence",), ("negative", "positive"), ("accuracy",), "SST-2", "index"),
    "mrpc": _Task(_PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy"), "MRPC", "index", _MRPC_FILE),
    "qqp": _Task(_QUESTIONS, ("not_duplicate", "duplicate"), ("f1", "accuracy"), "QQP", "index", _QQP_FILE),
    "stsb": _Task(_PAIR, (), ("pearson", "spearmanr"), "STS-B", "score", {"score": "label"}),
    "mnli": _Task(("premise", "hypothesis"), _NLI, ("accuracy",), "MNLI-m", "name", _NLI_FILE),
    "qnli": _Task(("question", "sentence"), _ENTAILMENT, ("accuracy",), "QNLI", "name"),
    "rte": _Task(_PAIR, _ENTAILMENT, ("accuracy",), "RTE", "name"),
    # The reverse of RTE's and QNLI's order, and the server expects numbers.
    "wnli": _Task(_PAIR, ("not_entailment", "entailment"), ("accuracy",), "WNLI", "index"),
    "ax": _Task(("premise", "hypothesis"), _NLI, ("matthews_correlation",), "AX", "name", _NLI_FILE),
}
_MNLI_SUBMISSIONS = (
    Submission("test_matched", "mnli", "MNLI-m", "name"),
    Submission("test_mismatched", "mnli", "MNLI-mm", "name"),
    Submission("test", "ax", "AX", "name"),
)
_SPELLINGS = {"sst-2": "sst2", "sts-b": "stsb", "mnli-m": "mnli", "mnli_matched": "mnli"}

_FILES = {"validation": "dev", "validation_matched": "dev_matched", "validation_mismatched": "dev_mismatched"}
"""Names of a split's file in the download, if different from the split's."""
_AX_FILES = ("AX", "diagnostic", "test")
_IDS = ("#1 ID", "#2 ID")


class Config(ClassificationSection):
    """A GLUE task."""

    name: Literal["glue"] = "glue"
    subset: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax"]
    """The task; `ax` is test-only and is predicted by an MNLI model (training.do_train: false). `path` may be the
    official download (glue_data with SST-2/, RTE/ ...)."""

    @field_validator("subset", mode="before")
    @classmethod
    def _normalize_subset(cls, value: Any) -> Any:
        name = value.lower() if isinstance(value, str) else value
        return _SPELLINGS.get(name, name) if isinstance(name, str) else value

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that contradict the task itself, each with the correct setting."""
        task = TASKS[self.subset]
        found = {}
        if self.text_column is not None and as_columns(self.text_column, ()) != task.text_columns:
            found["text_column"] = f"{self.subset} has {list(task.text_columns)}; leave the key out"
        if self.num_labels is not None and self.num_labels != max(1, len(task.labels)):
            found["num_labels"] = f"{self.subset} has {max(1, len(task.labels))}; leave the key out"
        if self.label_column not in (None, "label"):
            found["label_column"] = "GLUE's label column is called label; leave the key out"
        return found


def describe_classification(config: Config) -> ClassificationSet:
    """Describe the dataset of one task."""
    task = TASKS[config.subset]
    own = Submission("test", config.subset, task.file, task.values)
    return ClassificationSet(
        path=config.path or HUB_ID,
        revision=config.revision,
        form=FileFormat(quoting=config.quoting, renamed=task.renamed),
        open_split=open_glue,
        subset=config.subset,
        text_columns=task.text_columns,
        label_column="label",
        num_labels=max(1, len(task.labels)),
        label_names=task.labels,
        metrics=task.metrics,
        train_split=None if config.subset == "ax" else "train",
        eval_splits=_eval_splits(config.subset),
        submissions=_MNLI_SUBMISSIONS if config.subset == "mnli" else (own,),
    )


def _eval_splits(subset: str) -> dict[str, str]:
    if subset == "mnli":
        return {"": "validation_matched", "_mm": "validation_mismatched"}
    return {} if subset == "ax" else {"": "validation"}


def open_glue(source: Source, split: str) -> Rows | None:
    """Open a split, by the hub's name, of a task, in the layout of the official download or of the hub.

    The task is the source's subset; the download is the folder of all tasks, or the task's own.
    """
    assert source.subset is not None, f"{source.path} has tasks"
    task = TASKS[source.subset]
    form = FileFormat(quoting=source.form.quoting, headerless=task.headerless, renamed=task.renamed)
    home = _find_home(source, source.subset)
    if home is None:
        return open_rows(replace(source, form=form), split)
    names = _AX_FILES if source.subset == "ax" and split == "test" else (_FILES.get(split, split),)
    file = next((home / f"{name}.tsv" for name in names if (home / f"{name}.tsv").is_file()), None)
    if file is not None:
        return open_file(str(file), form)
    return _open_paraphrases(home, split, form) if source.subset == "mrpc" else None


def _find_home(source: Source, subset: str) -> Path | None:
    """Find the task's folder of a download; None: the path is not a download."""
    path = Path(source.path).expanduser()
    if not is_local(source.path) or not path.is_dir():
        return None
    names = ("AX", "diagnostic") if subset == "ax" else (TASKS[subset].folder,)
    if path.resolve().name in names and any(path.glob("*.ts[v]")):
        return path
    found = next((path / name for name in names if (path / name).is_dir() and name != subset), None)
    others = [task.folder for task in TASKS.values() if (path / task.folder).is_dir()]
    if found is None and others and not (path / subset).is_dir():
        raise DataError(f"{source.path}: no folder {names[0]}; there are: {', '.join(others)}")
    return found


def _open_paraphrases(home: Path, split: str, form: FileFormat) -> Rows | None:
    """Open MRPC as Microsoft publishes it: the training file includes the development rows, listed in dev_ids.tsv."""
    part = "test" if split == "test" else "train"
    file, ids = home / f"msr_paraphrase_{part}.txt", home / "dev_ids.tsv"
    if split not in ("train", "validation", "test") or not file.is_file():
        return None
    rows = open_file(str(file), FileFormat(".tsv", form.quoting, renamed=form.renamed))
    if split == "test":
        return rows
    if not ids.is_file():
        raise DataError(f"{ids}: no such file; it names the rows of {file.name} that are for development")
    (listed,) = open_file(str(ids), FileFormat(headerless=_IDS)).tables
    named = {_read_pair(listed, index) for index in range(len(listed))} - {None}
    (table,) = rows.tables
    wanted = split == "validation"
    return Rows((table,), [index for index in range(len(table)) if (_read_pair(table, index) in named) == wanted])


def _read_pair(table: Table, index: int) -> tuple[object, ...] | None:
    """Read the numbers that identify a row; None: it is unreadable, which is reported when its text is read."""
    try:
        row = table.read(index)
    except RowError:
        return None
    return tuple(row.get(column) for column in _IDS)
