"""The few rules that cross sections: combinations that cannot work, and settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.document import Document
from utils.config.problems import suggest
from utils.config.section import Section
from utils.config.sections.adapter import AdapterSection
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.model import ModelSection
from utils.core.errors import Problem
from utils.core.secrets import holds_secret
from utils.data.row_files import is_local
from utils.modeling.local_files import local_problems, read_model_config
from utils.modeling.quantized_checkpoint import find_storage
from utils.run_config.base_rules import Asked, check_base
from utils.run_config.hub_rules import check_hub
from utils.run_config.machine import tracker_names
from utils.run_config.process_rules import check_processes
from utils.run_config.sections import Header
from utils.tasks.task import Task, all_tasks, default_task, find_tasks, task_sections
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
    """Check that the files and folders that the configuration names are there."""
    model, dataset = read.get("model"), read.get("dataset")
    for message in local_problems(model) if isinstance(model, ModelSection) else ():
        key, _, rest = message.partition(": ")
        in_template = key == "chat_template"
        at = "model.chat_template" if in_template else "model.name_or_path"
        yield _problem(at, rest if in_template else message, document)
    for key in ("path", "validation_path", "prompts_file") if dataset is not None else ():
        path = getattr(dataset, key, None)
        if path and is_local(path) and not Path(path).expanduser().exists():
            where = document.place_of(("dataset", key if document.has(("dataset", key)) else "name"))
            message = f"{path}: no such file or folder; paths start at the working directory"
            yield Problem(message, f"dataset.{key}", where)


def check_resolved(config: RunConfig, task: type[Task], document: Document, files: bool = True) -> Iterator[Problem]:
    """Check what needs the whole configuration: metrics, strategies, the adapter's limits; files, if they are there."""
    arguments = config.arguments
    yield from task.check(config, document, files)
    yield from _check_arguments(arguments, document)
    yield from check_hub(config, document)
    yield from check_processes(config, document)
    yield from _check_strategies(arguments, document)
    if config.training.early_stopping_patience and arguments.get("eval_strategy", "no") == "no":
        yield _problem("training.early_stopping_patience", "needs evaluations; set training.eval_strategy", document)


def find_idle_settings(config: RunConfig, task: type[Task], document: Document) -> Iterator[str]:
    """Name settings that are written but have no effect, each as a sentence."""
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
        "training.optim": (names_optimizer(arguments), "the DeepSpeed file names the optimizer"),
        "training.early_stopping_threshold": (
            own.early_stopping_threshold != 0 and not own.early_stopping_patience,
            "early_stopping_patience is not set",
        ),
        "training.logging_dir": (
            own.logging_dir is not None and not {"tensorboard", "all"} & {*_as_list(reports)},
            "training.report_to is not tensorboard",
        ),
        "training.wandb": (
            own.wandb is not None and not {"wandb", "all"} & {*_as_list(reports)},
            "training.report_to is not wandb",
        ),
        **dict(_idle_for_task(config)),
        **{f"peft.{name}": (True, why) for name, why in config.peft.find_unused().items()},
        **task.find_unused(config),
    }
    for key, (is_idle, why) in idle.items():
        path = tuple(key.split("."))
        if is_idle and document.has(path):
            yield f"{document.place_of(path)}  {key}: has no effect; {why}"


def _idle_for_task(config: RunConfig) -> Iterator[tuple[str, tuple[bool, str]]]:
    """Name keys of the dataset that only the other task type reads, where they are not the default."""
    for key, task_type in config.dataset.ONLY_FOR.items():
        changed = getattr(config.dataset, key) != type(config.dataset).model_fields[key].default
        remedy = "; the length of CAUSAL_LM is sft.max_length" if key == "max_length" else ""
        yield f"dataset.{key}", (changed and task_type != config.task_type, f"it is for {task_type}{remedy}")


def _problem(path: str, message: str, document: Document) -> Problem:
    return Problem(message, path, document.place_of(tuple(path.split("."))))


def _check_task(header: Header, read: dict[str, Section], document: Document) -> Iterator[Problem]:
    dataset, peft = read.get("dataset"), read.get("peft")
    tasks = find_tasks(header.task_type)
    for name in task_sections():
        if name in read and read[name].model_fields_set and not any(name in task.sections() for task in tasks.values()):
            readers = " or ".join(dict.fromkeys(t.TASK_TYPE for t in all_tasks().values() if name in t.sections()))
            yield _problem(name, f"is for task_type: {readers} only; take the section out", document)
    if isinstance(dataset, DatasetSection) and header.task_type not in dataset.TASK_TYPES:
        kinds = " or ".join(dataset.TASK_TYPES)
        yield _problem("dataset.name", f"{dataset.name} is for task_type: {kinds}, not {header.task_type}", document)
    if isinstance(peft, AdapterSection) and peft.task_type not in (None, header.task_type):
        yield _problem("peft.task_type", f"{peft.task_type} contradicts task_type: {header.task_type}", document)


def _check_secrets(document: Document) -> Iterator[Problem]:
    """Refuse a secret in any value: all of them are written down with the run."""
    paths = dict.fromkeys([*document.places, *(path for path, _ in document.leaves())])  # and what was filled in
    texts = {path: "\n".join((path[-1], *_list_texts(document.get(path)))) for path in paths}
    if not holds_secret("\n".join(texts.values())):
        return  # one look for all: a suite has hundreds of documents
    for path, text in texts.items():
        if holds_secret(text):
            message = "holds a secret, which would be written down with the run; put it into the environment (HF_TOKEN)"
            yield Problem(message, ".".join(path), document.place_of(path))


def _list_texts(value: Any) -> Iterator[str]:
    return (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))


def _check_dataset(dataset: DatasetSection, document: Document) -> Iterator[Problem]:
    names = getattr(dataset, "text_column", None)
    if isinstance(names, list) and not 1 <= len(names) <= 2:
        yield _problem("dataset.text_column", f"takes one or two columns, found {len(names)}", document)
    for key, message in dataset.find_conflicts().items():
        yield _problem(f"dataset.{key}", message, document)


def _check_limits(
    peft: AdapterSection, model: ModelSection, read: dict[str, Section], document: Document
) -> Iterator[Problem]:
    """Check what a method cannot do at all, then what it cannot do on this base, where its config.json is here."""
    for key, message in peft.find_conflicts(find_storage(model)).items():
        yield _problem(f"peft.{key}", message, document)
    header = read.get("")
    if isinstance(header, Header) and default_task(header.task_type).GENERATES and peft.LIMITS.causal_lm:
        message = f"{peft.method} not with task_type: {header.task_type}; {peft.LIMITS.causal_lm}"
        yield _problem("peft.method", message, document)
    arguments = read["training"].model_dump(exclude_unset=True) if "training" in read else {}
    for key, reason in _limited_settings(peft, model, read, arguments).items():
        yield _problem(key, f"not with peft.method: {peft.method}; {reason}", document)
    if (base := read_model_config(model)) is not None:
        length_key = "sft.max_length" if "sft" in read else "dataset.max_length"
        section = read.get(length_key.split(".", maxsplit=1)[0])
        asked = Asked(peft, model, length_key, getattr(section, "max_length", 0), arguments)
        for at, message in check_base(asked, base):
            yield _problem(at, message, document)


def _limited_settings(
    peft: AdapterSection, model: ModelSection, read: dict[str, Section], arguments: dict[str, Any]
) -> dict[str, str]:
    """Give by key the settings that the method does not go with, each with the reason."""
    limits, sft = peft.LIMITS, read.get("sft")
    checkpointing = ("gradient_checkpointing", "activation_checkpointing")
    wanted = {
        "model.quantization": (model.quantization, limits.quantization),
        **{f"sft.{key}": (getattr(sft, key, None), limits.packing) for key in ("packing", "padding_free")},
        "sft.router_aux_loss_coef": (getattr(sft, "router_aux_loss_coef", None), limits.router_loss),
        **{f"training.{key}": (arguments.get(key), limits.gradient_checkpointing) for key in checkpointing},
    }
    return {key: reason for key, (value, reason) in wanted.items() if value and reason}


def _check_arguments(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Say before loading what TrainingArguments would say after it."""
    for one, other in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if arguments.get(one) and arguments.get(other):
            yield _problem(f"training.{one}", f"not together with training.{other}; keep one of them", document)
    yield from _check_trackers(arguments, document)
    yield from _check_optimizer(arguments, document)
    scheduler = arguments.get("lr_scheduler_type")
    if scheduler in ("reduce_lr_on_plateau", "greedy") and arguments.get("eval_strategy", "no") == "no":
        message = f"{scheduler} needs evaluations; set training.eval_strategy"
        yield _problem("training.lr_scheduler_type", message, document)
    for key in ("logging_steps", "eval_steps", "save_steps"):
        steps = arguments.get(key) or 0
        if steps > 1 and steps != int(steps):
            message = f"{steps} is not allowed; use a whole number of steps, or a share below 1"
            yield _problem(f"training.{key}", message, document)


def _check_optimizer(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Check what the optimizers that look into the model need beside them."""
    name = str(arguments.get("optim", ""))
    if name.startswith(("galore", "apollo")) and not arguments.get("optim_target_modules"):
        message = f"{name} needs training.optim_target_modules, the layers it works on: [attn, mlp], or all-linear"
        yield _problem("training.optim", message, document)
    if name.endswith("layerwise") and arguments.get("gradient_accumulation_steps", 1) > 1:
        message = f"not with training.optim: {name}, which takes a step after every batch; set it to 1"
        yield _problem("training.gradient_accumulation_steps", message, document)
    if not all("=" in pair for pair in str(arguments.get("optim_args") or "=").split(",")):
        yield _problem("training.optim_args", "takes pairs joined by commas: beta1=0.9,beta2=0.95", document)
    if arguments.get("dataloader_prefetch_factor") and not arguments.get("dataloader_num_workers"):
        message = "needs training.dataloader_num_workers: 1 or more; leave it out"
        yield _problem("training.dataloader_prefetch_factor", message, document)


def _check_trackers(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Check that transformers knows every tracker; what it needs is checked with the machine."""
    written = _as_list(arguments.get("report_to"))
    known = (*tracker_names(), *(("all", "none") if len(written) == 1 else ()))
    for name in written:
        if name is not None and name not in known:
            yield _problem("training.report_to", f"no tracker called {name}{suggest(str(name), known)}", document)


def _check_strategies(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Check that there is an evaluation behind every checkpoint, so that the best one can be found."""
    evaluate, save = arguments.get("eval_strategy", "no"), arguments.get("save_strategy", "no")
    if not arguments.get("load_best_model_at_end"):
        return
    path = "training.load_best_model_at_end"
    if evaluate == "no":
        yield _problem(path, "needs evaluations; set training.eval_strategy, or false here", document)
    elif save not in (evaluate, "best"):
        message = f"needs save_strategy ({save}) equal to eval_strategy ({evaluate})"
        yield _problem(path, message, document)
    elif evaluate == save == "steps":
        saving, evaluating = arguments["save_steps"], arguments["eval_steps"]
        ratio = saving / evaluating
        if (saving < 1) != (evaluating < 1) or abs(ratio - round(ratio)) > 1e-6 or ratio < 1:
            message = f"must be a multiple of eval_steps ({evaluating:g}), found {saving:g}"
            yield _problem("training.save_steps", message, document)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
