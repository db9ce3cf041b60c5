"""SEQ_CLS: classification and regression with transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils.config.document import Document
from utils.config.error_messages import suggest
from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.evaluation import EVALUATE_PREFIX, explain_script
from utils.core.errors import Problem
from utils.data.dataset import ClassificationSet, describe_classification
from utils.metrics.metric import Kind, metric_names
from utils.tasks import task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.modeling.head import HeadSpec
    from utils.tasks.task import TaskRun


class Task(task.Task):
    """See `utils.tasks.task.Task`."""

    TASK_TYPE = "SEQ_CLS"
    LENGTH_KEY = "dataset.max_length"
    DEFAULTS = {"eval_strategy": "epoch", "train_sampling_strategy": "group_by_length"}
    KEEPS_BEST = True
    PIPELINE = "text-classification"

    @classmethod
    def own_metric(cls, read: Mapping[str, Section]) -> str | None:
        """Return the dataset's first metric."""
        dataset = read["dataset"]
        assert isinstance(dataset, DatasetSection)
        return next(iter(describe_classification(dataset).metrics), None)

    @classmethod
    def headline(cls, config: RunConfig) -> str | None:
        """Return the metric that chooses the best checkpoint, else the dataset's first metric."""
        chosen = str(config.arguments.get("metric_for_best_model") or "").removeprefix("eval_")
        return chosen or cls.own_metric({"dataset": config.dataset})

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Check metrics and class weights against the dataset."""
        described = describe_classification(config.dataset)
        for path, message in (*_check_metrics(config, described), *_check_weights(config, described)):
            yield document.problem(path, message)

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        from utils.tasks.classification.run import ClassificationRun

        return ClassificationRun(config)

    @classmethod
    def build_collator(cls, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Build a collator that pads the inputs; each row has one label."""
        from transformers import DataCollatorWithPadding

        collator: Callable[[list[dict[str, Any]]], Any] = DataCollatorWithPadding(tokenizer)
        return collator

    @classmethod
    def build_head(cls, label_names: Sequence[str]) -> HeadSpec | None:
        """Describe the head for these labels."""
        from utils.modeling.head import build_head_spec

        return build_head_spec(label_names)

    @classmethod
    def count_labels(cls, dataset: DatasetSection) -> int | None:
        """Count the classes as far as the section alone tells."""
        described = describe_classification(dataset)
        return described.num_labels or len(described.label_names or ())

    @classmethod
    def count_texts(cls, dataset: DatasetSection) -> int:
        """Count the text columns."""
        return len(describe_classification(dataset).text_columns)


def _check_metrics(config: RunConfig, described: ClassificationSet) -> Iterator[tuple[str, str]]:
    kind: Kind = "regression" if described.num_labels == 1 else "classification"
    known = metric_names(kind)
    for name in described.metrics:
        if name.startswith(EVALUATE_PREFIX):
            if wrong := explain_script(name):
                yield "dataset.metrics", wrong
        elif name not in known:
            yield "dataset.metrics", f"no {kind} metric called {name}{suggest(name, known)}"
    chosen = str(config.arguments.get("metric_for_best_model") or "loss").removeprefix("eval_")
    combined = ["combined_score"] if len(described.metrics) > 1 else []
    macro = [f"{name}_macro" for name in ("f1", "precision", "recall") if name in known]
    allowed = ["loss", *combined, *known, *macro, *described.metrics]
    if chosen not in allowed:
        message = f"no {kind} metric called {chosen}{suggest(chosen, allowed)}"
        yield "training.metric_for_best_model", message


def _check_weights(config: RunConfig, described: ClassificationSet) -> Iterator[tuple[str, str]]:
    weights, classes = config.training.class_weights, described.num_labels
    if weights is not None and classes == 1:
        yield "training.class_weights", "has no meaning for regression; leave it out"
    elif isinstance(weights, list) and classes is not None and len(weights) != classes:
        yield "training.class_weights", f"needs {classes} numbers, found {len(weights)}"
    elif isinstance(weights, list) and min(weights, default=1) < 0:
        yield "training.class_weights", "a weight below 0 is not allowed; use 0 or more"
