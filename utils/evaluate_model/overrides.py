"""The `key=value` arguments of an evaluation: the allowed keys, and the configuration they make of a plain model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.config.document import Document, KeyPath, SourceLocation
from utils.config.run_config import RunConfig
from utils.config.section import Section
from utils.config.sections.dataset import ClassificationSection, InstructionSection
from utils.config.sections.evaluation import EvaluationSection, SetSection, label_of
from utils.config.sections.generation import GenerationSection
from utils.config.sections.model import ModelSection
from utils.config.yaml_text import read_overrides
from utils.core.errors import ConfigError, Problem, UserError
from utils.data.dataset import find_dataset_plugin, load_dataset_plugin
from utils.data.row_files import is_local
from utils.modeling.source import read_model_config
from utils.run_config.load import inspect_document
from utils.tasks.task import default_task, find_tasks, task_sections

_PLACE = SourceLocation("command line")
_SECTIONS: dict[str, tuple[type[Section], ...]] = {
    "model": (ModelSection,),
    "dataset": (InstructionSection, ClassificationSection),
    "generation": (GenerationSection,),
    "evaluation": (EvaluationSection,),
}
_MODEL = ("dtype", "quantization", "attn_implementation", "device_map", "trust_remote_code", "allow_pickle", "token")
_DATASET = ("path", "revision", "validation_path", "max_eval_samples", "on_bad_row")
_BY_TASK = {
    "CAUSAL_LM": (
        "generation",
        "evaluation.max_samples",
        "evaluation.max_prompt_length",
        "evaluation.truthfulqa",
        "evaluation.longbench",
        "evaluation.num_return_sequences",
        "evaluation.allow_code_execution",
    ),
    "SEQ_CLS": ("training.per_device_eval_batch_size",),
}
_OF_RUN = ("model.name_or_path", "results.language")
_WITHOUT_RUN = ("task_type", "seed", "results.language", "model.revision", "model.chat_template", "model.pad_token")
_NOT_EVALUATED = ("name", "max_train_samples", "train_split", "truncation", "max_empty_share")


def check_overrides(overrides: Sequence[str], task_type: str, of_run: bool) -> Document:
    """Reject arguments without effect here, or that would change a run's model; return the others.

    A run defines its own prompt and rows.

    Raises:
        ConfigError: With every such argument.
    """
    document = read_overrides(overrides)
    allowed = list(_allowed_keys(task_type, of_run))
    problems = [
        Problem(_explain(path, task_type, of_run, allowed), ".".join(path), str(_PLACE))
        for path, _ in document.leaves()
        if not _is_allowed(path, allowed, of_run)
    ]
    if problems:
        raise ConfigError(problems)
    return document


def find_task_type(model: str, sections: Sequence[SetSection], overrides: Sequence[str]) -> str:
    """Return the task type of the model by its sets, or by the checkpoint if the rows fit several types."""
    stated = read_overrides(overrides).get(("task_type",))
    if stated is not None:
        if stated not in _BY_TASK:
            raise ConfigError(
                [Problem(f"{stated!r} is not allowed; use SEQ_CLS or CAUSAL_LM", "task_type", str(_PLACE))]
            )
        return str(stated)
    plugins = {each.name: find_dataset_plugin(each.name) or "custom" for each in sections}
    kinds = {name: load_dataset_plugin(plugin).Config.TASK_TYPES for name, plugin in plugins.items()}
    common = set.intersection(*map(set, kinds.values()))
    if not common:
        needs = ", ".join(f"{name} {' or '.join(types)}" for name, types in kinds.items())
        raise UserError(f"--set: these sets need different kinds of models ({needs}); evaluate them one by one")
    if len(common) == 1:
        return common.pop()
    made_as = (read_model_config(ModelSection(name_or_path=model)) or {}).get("architectures") or [""]
    return "SEQ_CLS" if str(made_as[0]).endswith("ForSequenceClassification") else "CAUSAL_LM"


def build_model_config(model: str, section: SetSection, overrides: Document, task_type: str, root: Path) -> RunConfig:
    """Build the configuration of evaluating a model on a set: the set's own prompt, and otherwise defaults.

    Raises:
        ConfigError: With every mistake found.
    """
    document = Document(source="command line")
    written: dict[KeyPath, Any] = {
        ("task_type",): task_type,
        ("task_name",): label_of(model),
        ("model", "name_or_path"): model,
        ("peft", "method"): "lora",  # never attached; `none` would reject a quantized model, which cannot be trained
        ("dataset", "name"): section.name,
        ("dataset", "path"): section.path,
        ("dataset", "subset"): section.subset,
        ("dataset", "subsets"): section.subsets,
        ("dataset", "prompts_file"): section.prompts_file,
        ("dataset", "protocol"): section.protocol,
        ("training", "output_dir"): str(root),
    }
    written |= {("dataset", key): value for key, value in section.dataset.items()}
    for path, value in written.items():
        if value is not None:
            document.set(path, value, _PLACE)
    document.merge(overrides)
    inspection = inspect_document(document)
    if inspection.config is None:
        raise ConfigError(inspection.problems)
    return inspection.config


def require_local_rows(overrides: Document) -> None:
    """Check that rows named on the command line exist."""
    problems = []
    for key in ("path", "validation_path"):
        path = overrides.get(("dataset", key))
        if isinstance(path, str) and is_local(path) and not Path(path).expanduser().exists():
            message = f"{path}: no such file or folder; paths start at the working directory"
            problems.append(Problem(message, f"dataset.{key}", str(_PLACE)))
    if problems:
        raise ConfigError(problems)


def _allowed_keys(task_type: str, of_run: bool) -> Iterator[str]:
    yield from _BY_TASK.get(task_type, ())
    yield from (f"model.{key}" for key in _MODEL)
    yield from (f"dataset.{key}" for key in _DATASET)
    yield from _OF_RUN if of_run else _WITHOUT_RUN
    if not of_run:  # for a task other than the default of a model without a run
        yield from (str(task.SECTION) for task in find_tasks(task_type).values() if task.JUDGES)


def _is_allowed(path: KeyPath, allowed: Sequence[str], of_run: bool) -> bool:
    section, key = path[0], path[1] if len(path) > 1 else ""
    for kind in _SECTIONS.get(section, ()):
        key = kind.ALIASES.get(key, key)
    if section == "dataset" and not of_run:  # the caller defines the prompt and the columns
        return key not in _NOT_EVALUATED
    return section in allowed or f"{section}.{key}".rstrip(".") in allowed


def _explain(path: KeyPath, task_type: str, of_run: bool, allowed: Sequence[str]) -> str:
    if path[0] == "evaluation" and path[-1] in ("sets", "datasets"):
        return "name the sets with --set, once for each"
    if path[0] in ("generation", "evaluation") and not default_task(task_type).GENERATES:
        return "has no effect on a classifier; dataset.max_eval_samples limits its rows"
    trained = {"training", "peft", *task_sections()} - {"generation", "evaluation"}
    if path[0] in trained or path[-1] in _NOT_EVALUATED:
        return "has no effect here, since nothing is trained; leave it out"
    reason = "is fixed by the run" if of_run else "has no effect here"
    return f"{reason}; an evaluation takes {', '.join(f'{key}.*' if key == 'generation' else key for key in allowed)}"
