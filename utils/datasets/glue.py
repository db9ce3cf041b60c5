"""GLUE: nine tasks and the diagnostic set, one row each.

A row of `cola`: {"sentence": "They drank the pub dry.", "label": 1, "idx": 7}.
Source: Wang et al. 2019, arXiv:1804.07461; names, labels and metrics as in the hub's nyu-mll/glue and the
`glue` metric; file names and values as the benchmark's server takes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import field_validator

from utils.config.sections.dataset import ClassificationSection
from utils.data.dataset import ClassificationSet, Submission, columns
from utils.data.row_files import FileFormat
from utils.datasets.glue_download import open_glue, renamed_columns

HUB_ID = "nyu-mll/glue"
HUB_NAMES = ("glue", "nyu-mll/glue")


@dataclass(frozen=True)
class _Task:
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    file: str
    values: Literal["index", "name", "score"]


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")

TASKS = {
    "cola": _Task(("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",), "CoLA", "index"),
    "sst2": _Task(("sentence",), ("negative", "positive"), ("accuracy",), "SST-2", "index"),
    "mrpc": _Task(_PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy"), "MRPC", "index"),
    "qqp": _Task(("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy"), "QQP", "index"),
    "stsb": _Task(_PAIR, (), ("pearson", "spearmanr"), "STS-B", "score"),
    "mnli": _Task(("premise", "hypothesis"), _NLI, ("accuracy",), "MNLI-m", "name"),
    "qnli": _Task(("question", "sentence"), _ENTAILMENT, ("accuracy",), "QNLI", "name"),
    "rte": _Task(_PAIR, _ENTAILMENT, ("accuracy",), "RTE", "name"),
    # The reverse of RTE's and QNLI's order, and the server wants numbers.
    "wnli": _Task(_PAIR, ("not_entailment", "entailment"), ("accuracy",), "WNLI", "index"),
    "ax": _Task(("premise", "hypothesis"), _NLI, ("matthews_correlation",), "AX", "name"),
}

_SPELLINGS = {"sst-2": "sst2", "sts-b": "stsb", "mnli-m": "mnli", "mnli_matched": "mnli"}


class Config(ClassificationSection):
    """A GLUE task."""

    name: Literal["glue"] = "glue"
    subset: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax"]
    """The task; `ax` is test-only and is predicted by an MNLI model (training.do_train: false). `path` may be the
    official download as it lies on disk (glue_data with SST-2/, RTE/ ...)."""

    @field_validator("subset", mode="before")
    @classmethod
    def _read_spelling(cls, value: Any) -> Any:
        name = value.lower() if isinstance(value, str) else value
        return _SPELLINGS.get(name, name) if isinstance(name, str) else value

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that say otherwise than the task itself, each with what is right."""
        task = TASKS[self.subset]
        found = {}
        if self.text_column is not None and columns(self.text_column, ()) != task.text_columns:
            found["text_column"] = f"{self.subset} has {list(task.text_columns)}; leave the key out"
        if self.num_labels is not None and self.num_labels != max(1, len(task.labels)):
            found["num_labels"] = f"{self.subset} has {max(1, len(task.labels))}; leave the key out"
        if self.label_column not in (None, "label"):
            found["label_column"] = "GLUE's label column is called label; leave the key out"
        return found


def describe_classification(config: Config) -> ClassificationSet:
    """Answer the four questions for one task."""
    task = TASKS[config.subset]
    mnli = config.subset == "mnli"
    path, form = config.path or HUB_ID, FileFormat(quoting=config.quoting)
    return ClassificationSet(
        path=path,
        revision=config.revision,
        form=replace(form, renamed=renamed_columns(config.subset)),
        open_split=open_glue,
        subset=config.subset,
        text_columns=task.text_columns,
        label_column="label",
        num_labels=max(1, len(task.labels)),
        label_names=task.labels,
        metrics=task.metrics,
        train_split=None if config.subset == "ax" else "train",
        eval_splits=_eval_splits(config.subset),
        submissions=_mnli_submissions() if mnli else (_submission(config.subset, task),),
    )


def _eval_splits(subset: str) -> dict[str, str]:
    if subset == "mnli":
        return {"": "validation_matched", "_mm": "validation_mismatched"}
    return {} if subset == "ax" else {"": "validation"}


def _submission(subset: str, task: _Task) -> Submission:
    return Submission("test", subset, task.file, task.values)


def _mnli_submissions() -> tuple[Submission, ...]:
    return (
        Submission("test_matched", "mnli", "MNLI-m", "name"),
        Submission("test_mismatched", "mnli", "MNLI-mm", "name"),
        Submission("test", "ax", "AX", "name"),
    )
