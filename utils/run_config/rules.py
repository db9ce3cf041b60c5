"""The few rules that cross sections: combinations that cannot work, and settings without effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import AdapterSection
from utils.config.document import Document
from utils.config.problems import suggest
from utils.config.section import Section
from utils.core.errors import Problem
from utils.core.secrets import holds_secret
from utils.data.classification_set import ClassificationSet
from utils.data.dataset import DatasetSection
from utils.data.row_files import is_local
from utils.metrics.metric import Kind, metric_names
from utils.modeling.positions import has_position_table, length_problem
from utils.modeling.quantized_checkpoint import find_storage
from utils.modeling.section import ModelSection, local_problems, read_model_config
from utils.run_config.base_rules import Asked, check_base
from utils.run_config.evaluation_rules import find_evaluation_mistakes, find_idle_evaluation
from utils.run_config.hub_rules import check_hub
from utils.run_config.machine import tracker_names
from utils.run_config.process_rules import check_processes
from utils.run_config.sections import CAUSAL_SECTIONS, Header
from utils.training.launch import names_optimizer
from utils.training.sft_section import WITHOUT_EFFECT

if TYPE_CHECKING:
    from utils.run_config.resolved import RunConfig

_CAUSAL_METRICS = ("loss", "perplexity", "token_accuracy")


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


def check_resolved(
    config: RunConfig, described: ClassificationSet | None, document: Document, files: bool = True
) -> Iterator[Problem]:
    """Check what needs the whole configuration: metrics, strategies, the adapter's limits; files, if they are there."""
    arguments = config.arguments
    if described is not None:
        yield from _check_metrics(config, described, document)
    else:
        yield from _check_causal(config, document)
        yield from (_problem(key, message, document) for key, message in find_evaluation_mistakes(config, files))
    yield from _check_length(config, document)
    yield from _check_arguments(arguments, document)
    yield from check_hub(config, document)
    yield from check_processes(config, document)
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
        elif isinstance(weights, list) and min(weights, default=1) < 0:
            yield _problem("training.class_weights", "a weight below 0 is not allowed; use 0 or more", document)


def find_idle_settings(config: RunConfig, document: Document) -> Iterator[str]:
    """Name settings that are written but have no effect, each as a sentence."""
    arguments, own = config.arguments, config.training
    reports = arguments.get("report_to")
    causal = config.task_type == "CAUSAL_LM"
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
        **(dict(find_idle_evaluation(config)) if causal else {}),
        **{f"sft.{name}": (True, why) for name, why in WITHOUT_EFFECT.items()},
        **{
            f"generation.{name}": (
                causal and config.generation.temperature == 0 and getattr(config.generation, name) is not None,
                "generation.temperature is 0",
            )
            for name in ("top_p", "top_k")
        },
        "training.class_weights": (causal and own.class_weights is not None, "it is for SEQ_CLS"),
        "training.head_learning_rate": (
            causal and own.head_learning_rate is not None,
            "a language model has no new head",
        ),
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
    for name in CAUSAL_SECTIONS if header.task_type == "SEQ_CLS" else ():
        if name in read and read[name].model_fields_set:
            yield _problem(name, "is for task_type: CAUSAL_LM only; take the section out", document)
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
    if isinstance(header, Header) and header.task_type == "CAUSAL_LM" and peft.LIMITS.causal_lm:
        yield _problem("peft.method", f"{peft.method} not with task_type: CAUSAL_LM; {peft.LIMITS.causal_lm}", document)
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


def _check_metrics(config: RunConfig, described: ClassificationSet, document: Document) -> Iterator[Problem]:
    kind: Kind = "regression" if described.num_labels == 1 else "classification"
    known = metric_names(kind)
    for name in described.metrics:
        if name not in known:
            yield _problem("dataset.metrics", f"no {kind} metric called {name}{suggest(name, known)}", document)
    chosen = str(config.arguments.get("metric_for_best_model") or "loss").removeprefix("eval_")
    combined = ["combined_score"] if len(described.metrics) > 1 else []
    macro = [f"{name}_macro" for name in ("f1", "precision", "recall") if name in known]
    allowed = ["loss", *combined, *known, *macro]
    if chosen not in allowed:
        message = f"no {kind} metric called {chosen}{suggest(chosen, allowed)}"
        yield _problem("training.metric_for_best_model", message, document)


def _check_causal(config: RunConfig, document: Document) -> Iterator[Problem]:
    chosen = str(config.arguments.get("metric_for_best_model") or "loss").removeprefix("eval_")
    if chosen not in _CAUSAL_METRICS:
        message = f"no result called {chosen}{suggest(chosen, _CAUSAL_METRICS)}; evaluations during training give these"
        yield _problem("training.metric_for_best_model", message, document)
    known = metric_names("generation")
    for name in getattr(config.dataset, "metrics", None) or ():
        if name not in known:
            message = f"no metric of generated texts called {name}{suggest(name, known)}"
            yield _problem("dataset.metrics", message, document)


def _check_length(config: RunConfig, document: Document) -> Iterator[Problem]:
    """Check that a language model has positions for the length that the file asks for.

    A classifier's rows decide; so do a language model's under the default, which a run's own run.yaml states too.
    """
    if config.task_type != "CAUSAL_LM" or config.sft.max_length == type(config.sft).model_fields["max_length"].default:
        return
    base = read_model_config(config.model) or {}
    if config.peft.virtual_tokens and has_position_table(base):
        return  # checked with them
    message = length_problem(base, config.model.rope_scaling, config.sft.max_length)
    if message:
        yield _problem(config.length_key, message, document)


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
