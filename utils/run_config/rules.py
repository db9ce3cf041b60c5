"""The few rules that cross sections: combinations that cannot work, and settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import AdapterSection
from utils.config.document import Document
from utils.config.problems import suggest
from utils.config.section import Section
from utils.data.dataset import ClassificationSet, DatasetSection, is_local
from utils.errors import Problem
from utils.metrics.metric import Kind, metric_names
from utils.modeling.section import ModelSection, local_problems, read_model_config
from utils.run_config.sections import Header

if TYPE_CHECKING:
    from utils.run_config.resolved import RunConfig


def check_sections(read: dict[str, Section], document: Document) -> Iterator[Problem]:
    """Check rules between sections that were read without mistakes."""
    header, model, peft, dataset = (read.get(name) for name in ("", "model", "peft", "dataset"))
    if isinstance(header, Header):
        yield from _check_task(header, read, document)
    if isinstance(dataset, DatasetSection):
        yield from _check_dataset(dataset, document)
    if isinstance(peft, AdapterSection) and isinstance(model, ModelSection):
        yield from _check_limits(peft, model, read, document)


def check_files(read: dict[str, Section], document: Document) -> Iterator[Problem]:
    """Check that the files and folders that the configuration names are there."""
    model, dataset = read.get("model"), read.get("dataset")
    for message in local_problems(model) if isinstance(model, ModelSection) else ():
        yield _problem("model.name_or_path", message, document)
    for key in ("path", "validation_path") if dataset is not None else ():
        path = getattr(dataset, key, None)
        if path and is_local(path) and not Path(path).expanduser().exists():
            where = document.place_of(("dataset", key if document.has(("dataset", key)) else "name"))
            message = f"{path}: no such file or folder; paths start at the working directory"
            yield Problem(message, f"dataset.{key}", where)


def check_resolved(config: RunConfig, described: ClassificationSet | None, document: Document) -> Iterator[Problem]:
    """Check what needs the whole configuration: metrics, strategies, the adapter's limits."""
    arguments = config.arguments
    if described is not None:
        yield from _check_metrics(config, described, document)
    yield from _check_strategies(arguments, document)
    if config.training.early_stopping_patience and arguments.get("eval_strategy", "no") == "no":
        yield _problem("training.early_stopping_patience", "needs evaluations; set training.eval_strategy", document)
    weights = config.training.class_weights
    if weights is not None and described is not None:
        classes = described.num_labels
        if classes == 1:
            yield _problem("training.class_weights", "has no meaning for regression; leave it out", document)
        elif isinstance(weights, list) and classes is not None and len(weights) != classes:
            yield _problem("training.class_weights", f"needs {classes} numbers, found {len(weights)}", document)


def find_idle_settings(config: RunConfig, document: Document) -> Iterator[str]:
    """Name settings that are written but have no effect, each as a sentence."""
    arguments = config.arguments
    idle = {
        "eval_steps": (
            arguments.get("eval_strategy") != "steps",
            "evaluation is not by steps (training.eval_strategy)",
        ),
        "save_steps": (
            arguments.get("save_strategy") != "steps",
            "saving is not by steps (training.save_strategy)",
        ),
        "num_train_epochs": (arguments.get("max_steps", -1) > 0, "training.max_steps decides the length"),
        "early_stopping_threshold": (
            bool(config.training.early_stopping_threshold) and not config.training.early_stopping_patience,
            "training.early_stopping_patience is not set",
        ),
        "logging_dir": (arguments.get("report_to") != "tensorboard", "training.report_to is not tensorboard"),
    }
    for key, (is_idle, why) in idle.items():
        path = ("training", key)
        if is_idle and document.has(path):
            yield f"{document.place_of(path)}  training.{key}: has no effect; {why}"


def _problem(path: str, message: str, document: Document) -> Problem:
    return Problem(message, path, document.place_of(tuple(path.split("."))))


def _check_task(header: Header, read: dict[str, Section], document: Document) -> Iterator[Problem]:
    dataset, peft = read.get("dataset"), read.get("peft")
    if header.task_type == "SEQ_CLS" and "sft" in read and read["sft"].model_fields_set:
        yield _problem("sft", "is for task_type: CAUSAL_LM only; take the section out", document)
    if isinstance(dataset, DatasetSection) and header.task_type not in dataset.TASK_TYPES:
        kinds = " or ".join(dataset.TASK_TYPES)
        yield _problem("dataset.name", f"{dataset.name} is for task_type: {kinds}, not {header.task_type}", document)
    if isinstance(peft, AdapterSection) and peft.task_type not in (None, header.task_type):
        yield _problem("peft.task_type", f"{peft.task_type} contradicts task_type: {header.task_type}", document)


def _check_dataset(dataset: DatasetSection, document: Document) -> Iterator[Problem]:
    names = dataset.text_column
    if isinstance(names, list) and not 1 <= len(names) <= 2:
        yield _problem("dataset.text_column", f"takes one or two columns, found {len(names)}", document)
    for key, message in dataset.contradictions().items():
        yield _problem(f"dataset.{key}", message, document)


def _check_limits(
    peft: AdapterSection, model: ModelSection, read: dict[str, Section], document: Document
) -> Iterator[Problem]:
    limits = peft.LIMITS
    if model.quantization is not None and limits.quantization:
        yield _problem("model.quantization", f"not with peft.method: {peft.method}; {limits.quantization}", document)
    architecture = (read_model_config(model) or {}).get("model_type", "")
    if architecture in limits.model_types:
        message = f"{peft.method} not on {architecture}; {limits.model_types[architecture]}"
        yield _problem("peft.method", message, document)
    arguments = read["training"].model_dump(exclude_unset=True) if "training" in read else {}
    for key in ("gradient_checkpointing", "activation_checkpointing"):
        if arguments.get(key) and limits.gradient_checkpointing:
            message = f"not with peft.method: {peft.method}; {limits.gradient_checkpointing}"
            yield _problem(f"training.{key}", message, document)


def _check_metrics(config: RunConfig, described: ClassificationSet, document: Document) -> Iterator[Problem]:
    kind: Kind = "regression" if described.num_labels == 1 else "classification"
    known = metric_names(kind)
    for name in described.metrics:
        if name not in known:
            yield _problem("dataset.metrics", f"no {kind} metric called {name}{suggest(name, known)}", document)
    chosen = str(config.arguments.get("metric_for_best_model") or "loss").removeprefix("eval_")
    allowed = ["loss", "combined_score", *known, *(f"{name}_macro" for name in ("f1", "precision", "recall"))]
    if chosen not in allowed:
        message = f"no {kind} metric called {chosen}{suggest(chosen, allowed)}"
        yield _problem("training.metric_for_best_model", message, document)


def _check_strategies(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Say before loading what the Trainer would say after it."""
    evaluate, save = arguments.get("eval_strategy", "no"), arguments.get("save_strategy", "no")
    if not arguments.get("load_best_model_at_end"):
        return
    path = "training.load_best_model_at_end"
    if evaluate == "no":
        yield _problem(path, "needs evaluations; set training.eval_strategy, or false here", document)
    elif save not in (evaluate, "best"):
        message = f"needs save_strategy ({save}) equal to eval_strategy ({evaluate})"
        yield _problem(path, message, document)
    elif save == "steps" and arguments["save_steps"] % (arguments["eval_steps"] or 1):
        message = f"must be a multiple of eval_steps ({arguments['eval_steps']}), found {arguments['save_steps']}"
        yield _problem("training.save_steps", message, document)
