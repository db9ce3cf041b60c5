"""The few rules between sections: combinations that cannot work, and settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.document import Document
from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.model import ModelSection
from utils.config.sections.peft import AdapterSection
from utils.config.sections.training import OwnTrainingSection
from utils.core.errors import Problem
from utils.core.secrets import holds_secret
from utils.data.row_files import is_local
from utils.modeling.quantization import find_storage
from utils.modeling.source import local_problems, read_model_config
from utils.run_config.base_rules import Asked, check_base
from utils.run_config.callback_names import explain_callback
from utils.run_config.reader import Header
from utils.run_config.training_rules import as_list, check_training
from utils.tasks.task import Task, all_tasks, choose_task, find_tasks, task_sections
from utils.trainer.launch import names_optimizer

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig


def check_sections(read: dict[str, Section], document: Document) -> Iterator[Problem]:
    """Check rules between sections that were read without mistakes."""
    yield from _check_secrets(document)
    header, model, peft, dataset = (read.get(name) for name in ("", "model", "peft", "dataset"))
    if isinstance(header, Header):
        yield from _check_task(header, read, document)
    if isinstance(dataset, DatasetSection):
        yield from _check_dataset(dataset, document)
    if isinstance(peft, AdapterSection) and isinstance(model, ModelSection):
        yield from _check_limits(peft, model, read, document)


def check_files(read: dict[str, Section], document: Document) -> Iterator[Problem]:
    """Check that the files, folders and callbacks that the configuration names exist."""
    model, dataset, training = (read.get(name) for name in ("model", "dataset", "training"))
    for key, message in local_problems(model) if isinstance(model, ModelSection) else ():
        yield document.problem(f"model.{key}", message, "not_found")
    for key in ("path", "validation_path", "prompts_file") if dataset is not None else ():
        path = getattr(dataset, key, None)
        if path and is_local(path) and not Path(path).expanduser().exists():
            where = document.place_of(("dataset", key if document.has(("dataset", key)) else "name"))
            message = f"{path}: no such file or folder; paths start at the working directory"
            yield Problem(message, f"dataset.{key}", where, "not_found")
    for name in training.callbacks if isinstance(training, OwnTrainingSection) else ():
        if missing := explain_callback(name):
            yield document.problem("training.callbacks", missing, "not_found")


def check_resolved(config: RunConfig, task: type[Task], document: Document, files: bool = True) -> Iterator[Problem]:
    """Check rules on the whole configuration: metrics, strategies, the adapter's limits, and optionally its files."""
    yield from task.check(config, document, files)
    yield from check_training(config, task, document)


def find_unused_settings(config: RunConfig, task: type[Task], document: Document) -> Iterator[str]:
    """Describe settings that are written but have no effect, one sentence each."""
    arguments, own = config.arguments, config.training
    reports = arguments.get("report_to")
    idle = {
        "training.eval_steps": (
            arguments.get("eval_strategy") != "steps",
            "evaluation is not by steps (training.eval_strategy)",
        ),
        "training.save_steps": (
            arguments.get("save_strategy") != "steps",
            "saving is not by steps (training.save_strategy)",
        ),
        "training.num_train_epochs": (arguments.get("max_steps", -1) > 0, "training.max_steps decides the length"),
        "training.optim_args": (
            own.find_plugin("optim") is not None,
            "an optimizer that is a plug-in has settings of its own",
        ),
        "training.optim": (names_optimizer(arguments), "the DeepSpeed file names the optimizer"),
        "training.early_stopping_threshold": (
            own.early_stopping_threshold != 0 and not own.early_stopping_patience,
            "early_stopping_patience is not set",
        ),
        "training.logging_dir": (
            own.logging_dir is not None and not {"tensorboard", "all"} & {*as_list(reports)},
            "training.report_to is not tensorboard",
        ),
        "training.wandb": (
            own.wandb is not None and not {"wandb", "all"} & {*as_list(reports)},
            "training.report_to is not wandb",
        ),
        **dict(_unused_for_task(config, task)),
        **{
            name: (name not in config.task_sections and bool(document.get((name,))), f"the run's task is {config.task}")
            for name in task_sections()
        },
        **{f"peft.{name}": (True, why) for name, why in config.peft.find_unused().items()},
        **task.find_unused(config),
    }
    for key, (is_idle, why) in idle.items():
        path = tuple(key.split("."))
        if is_idle and document.has(path):
            yield f"{document.place_of(path)}  {key}: has no effect; {why}"


def _unused_for_task(config: RunConfig, task: type[Task]) -> Iterator[tuple[str, tuple[bool, str]]]:
    """Yield keys of the dataset that only the other kind of task reads, with whether they were changed."""
    for key, task_type in config.dataset.ONLY_FOR.items():
        changed = getattr(config.dataset, key) != type(config.dataset).model_fields[key].default
        remedy = f"; the rows' length is {task.LENGTH_KEY}" if key == "max_length" else ""
        yield f"dataset.{key}", (changed and task_type != task.row_type(), f"it is for {task_type}{remedy}")


def _check_task(header: Header, read: dict[str, Section], document: Document) -> Iterator[Problem]:
    dataset, peft = read.get("dataset"), read.get("peft")
    tasks = find_tasks(header.task_type)
    choosing = {task.SECTION for task in all_tasks().values() if not task.IS_DEFAULT}  # even if empty
    for name in task_sections():
        said = name in read and (read[name].model_fields_set or (name in choosing and document.has((name,))))
        if said and not any(name in task.sections() for task in tasks.values()):
            readers = " or ".join(dict.fromkeys(t.TASK_TYPE for t in all_tasks().values() if name in t.sections()))
            yield document.problem(name, f"is for task_type: {readers} only; take the section out")
    asking = [task.SECTION for task in tasks.values() if not task.IS_DEFAULT and document.has((str(task.SECTION),))]
    for other in asking[1:]:
        yield document.problem(str(other), f"asks for another task than {asking[0]}: does; take one of them out")
    if (task := choose_task(document, header.task_type)) is None:
        sections = " or ".join(f"{each.SECTION}:" for each in tasks.values())
        yield document.problem("task_type", f"{header.task_type} needs the section of its task, {sections}")
    if isinstance(dataset, DatasetSection) and task is not None and task.row_type() not in dataset.TASK_TYPES:
        kinds, asked = " or ".join(dataset.TASK_TYPES), header.task_type if task.IS_DEFAULT else f"{task.SECTION}:"
        yield document.problem("dataset.name", f"{dataset.name} is for task_type: {kinds}, not {asked}")
    if isinstance(peft, AdapterSection) and peft.task_type not in (None, header.task_type):
        yield document.problem("peft.task_type", f"{peft.task_type} contradicts task_type: {header.task_type}")


def _check_secrets(document: Document) -> Iterator[Problem]:
    """Reject a secret in any value, since all values are stored with the run."""
    paths = dict.fromkeys([*document.places, *(path for path, _ in document.leaves())])  # and filled-in values
    texts = {path: "\n".join((path[-1], *_list_texts(document.get(path)))) for path in paths}
    if not holds_secret("\n".join(texts.values())):
        return  # one check for all: a suite has hundreds of documents
    for path, text in texts.items():
        if holds_secret(text):
            message = "holds a secret, which would be written down with the run; put it into the environment (HF_TOKEN)"
            yield Problem(message, ".".join(path), document.place_of(path), "secret")


def _list_texts(value: Any) -> Iterator[str]:
    return (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))


def _check_dataset(dataset: DatasetSection, document: Document) -> Iterator[Problem]:
    names = getattr(dataset, "text_column", None)
    if isinstance(names, list) and not 1 <= len(names) <= 2:
        yield document.problem("dataset.text_column", f"takes one or two columns, found {len(names)}")
    for key, message in dataset.find_conflicts().items():
        yield document.problem(f"dataset.{key}", message)


def _check_limits(
    peft: AdapterSection, model: ModelSection, read: dict[str, Section], document: Document
) -> Iterator[Problem]:
    """Check what a method never supports, then what it does not support on this base, if its config.json is local."""
    for key, message in peft.find_conflicts(find_storage(model)).items():
        yield document.problem(f"peft.{key}", message, "unsupported")
    task_type = getattr(read.get(""), "task_type", None)
    task, limits = choose_task(document, task_type), peft.LIMITS
    if task is not None and (why := limits.causal_lm if task.GENERATES else limits.classification):
        message = f"{peft.method} not with task_type: {task_type}; {why}"
        yield document.problem("peft.method", message, "unsupported")
    arguments = read["training"].model_dump(exclude_unset=True) if "training" in read else {}
    for key, reason in _limited_settings(peft, model, read, arguments).items():
        yield document.problem(key, f"not with peft.method: {peft.method}; {reason}", "unsupported")
    if (base := read_model_config(model)) is not None:
        own = next((name for name in task_sections() if hasattr(read.get(name), "max_length")), "dataset")
        asked = Asked(peft, model, f"{own}.max_length", getattr(read.get(own), "max_length", 0), arguments)
        for at, message in check_base(asked, base):
            yield document.problem(at, message, "unsupported")


def _limited_settings(
    peft: AdapterSection, model: ModelSection, read: dict[str, Section], arguments: dict[str, Any]
) -> dict[str, str]:
    """Return, by key, settings that the method does not support, each with the reason."""
    limits, tasks = peft.LIMITS, [(name, read[name]) for name in task_sections() if name in read]
    checkpointing = ("gradient_checkpointing", "activation_checkpointing")
    wanted = {
        "model.quantization": (model.quantization, limits.quantization),
        **{
            f"{name}.{key}": (getattr(section, key, None), reason)
            for name, section in tasks
            for key, reason in (
                ("packing", limits.packing),
                ("padding_free", limits.packing),
                ("router_aux_loss_coef", limits.router_loss),
            )
        },
        **{f"training.{key}": (arguments.get(key), limits.gradient_checkpointing) for key in checkpointing},
    }
    return {key: reason for key, (value, reason) in wanted.items() if value and reason}
