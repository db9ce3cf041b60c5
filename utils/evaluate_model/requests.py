"""What the command line asks: the sets of `--set`, the `key=value` words, and the configuration that they make."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from utils.config.document import Document, KeyPath, SourceLocation
from utils.config.error_messages import suggest
from utils.config.run_config import RunConfig
from utils.config.section import Section
from utils.config.sections.dataset import ClassificationSection, InstructionSection
from utils.config.sections.evaluation import EvaluationSection, SetSection, as_section, label_of
from utils.config.sections.generation import GenerationSection
from utils.config.sections.model import ModelSection
from utils.config.yaml_text import parse_value, read_overrides
from utils.core import registry
from utils.core.errors import ConfigError, Problem, UserError
from utils.core.texts import parse_split
from utils.data.dataset import find_dataset_plugin, load_dataset_plugin
from utils.data.row_files import is_local
from utils.modeling.source import read_model_config
from utils.run_config.load import inspect_document
from utils.tasks.task import default_task, find_tasks, task_sections


@dataclass(frozen=True)
class OwnSets:
    """What a run knows by name."""

    name: str
    """Its `dataset.name`."""
    labelled: Mapping[str, SetSection] = field(default_factory=dict)
    """The sets of its configuration, by label."""
    task_type: str = "CAUSAL_LM"
    """Of SEQ_CLS, a bare word that is nothing else is a split of its own set."""


def read_requests(words: Sequence[str], own: OwnSets | None) -> tuple[SetSection, ...]:
    """Read every `--set`; `own` is what the run knows, None: the model is no run.

    Raises:
        UserError: A word names nothing that could be a set, or two results would have one label.
    """
    sections = tuple(_read_word(word, own) for word in words)
    labels = [each.shown_label for each in sections]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(
            f"--set: two sets are called {twice[0]}; give one of them another label: '{{name: ..., label: ...}}'"
        )
    return sections


def _read_word(word: str, own: OwnSets | None) -> SetSection:
    section = _parse_mapping(word) if word.lstrip().startswith("{") else _parse_word(word, own)
    for path in (section.path, None if find_dataset_plugin(section.name) else section.name):
        if path and is_local(path) and not os.path.exists(os.path.expanduser(path)):
            raise UserError(f"--set {word}: {path}: no such file or folder; paths start at the working directory")
    plugin = find_dataset_plugin(section.name)
    if plugin is None and not _is_path(section.name):
        known = suggest(section.name, registry.names("datasets"))
        raise UserError(f"--set {word}: {section.name} is neither a dataset nor a hub id, file or folder{known}")
    if own is None or plugin != registry.normalize(own.name):
        _require_subset(word, section)
    if (
        own is not None
        and plugin is not None
        and own.task_type not in (kinds := load_dataset_plugin(plugin).Config.TASK_TYPES)
    ):
        raise UserError(f"--set {word}: {plugin} is for task_type {' or '.join(kinds)}, the run's is {own.task_type}")
    return section


def _parse_mapping(word: str) -> SetSection:
    try:
        return as_section(parse_value(word))
    except ValueError as error:
        raise UserError(f"--set {word}: {error}") from None


def _parse_word(word: str, own: OwnSets | None) -> SetSection:
    if own is not None and word in own.labelled:
        return own.labelled[word]
    word, keys = _split_keys(word)
    name, subset, split = _split_word(word)
    if (
        own is not None
        and not default_task(own.task_type).GENERATES
        and name == word
        and find_dataset_plugin(name) is None
        and not _is_path(name)
    ):
        name, split = "", name
    if not name:
        if own is None:
            raise UserError(f"--set {word}: names no set; write the set before the @: gsm8k{word}")
        given = {"name": own.name, "subset": subset, "split": split, "label": _label(split or "own")}
        return _build(word, {**given, **keys})
    subsets = subset.split(",") if subset and "," in subset else None
    label = _label(label_of(name), subset, split) if not subsets and (subset or split) else None
    parts = {"subset": subset} if subsets is None else {"subsets": subsets}
    path = {"path": name, "label": label or label_of(name)} if "name" in keys and _is_path(name) else {}
    return _build(word, {"name": name, "split": split, "label": label, **parts, **path, **keys})


def _split_keys(word: str) -> tuple[str, dict[str, Any]]:
    """Cut `FILE?key=value&key=value`: keys of a set, or of its dataset's section; values are YAML."""
    name, mark, rest = word.partition("?")
    if not mark or os.path.exists(os.path.expanduser(word)):
        return word, {}
    keys: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for part in rest.split("&"):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise UserError(f"--set {word}: {part!r} is no key=value; write {name}?answer_column=solution&label=mine")
        try:
            (keys if key in SetSection.model_fields else options)[key] = parse_value(value)
        except ValueError as error:
            raise UserError(f"--set {word}: {key}: {error}") from None
    return name, {**keys, **({"dataset": options} if options else {})}


def _split_word(word: str) -> tuple[str, str | None, str | None]:
    """Cut `name:subset@split`, or `name:one,other@split`; what is a path as a whole stays whole."""
    if os.path.exists(os.path.expanduser(word)):
        return word, None, None
    name, at, split = word.rpartition("@")
    if not at:
        name, split = word, ""
    elif not split:
        raise UserError(f"--set {word}: no split after the @; write {name}@test")
    if split:
        try:
            parse_split(split)
        except ValueError as error:
            raise UserError(f"--set {word}: {error}") from None
    subset = None
    if (match := re.fullmatch(r"(.*):([\w.,-]+)", name)) and not os.path.exists(os.path.expanduser(name)):
        name, subset = match.groups()
    return name, subset, split or None


def _build(word: str, given: dict[str, Any]) -> SetSection:
    try:
        return as_section(given)
    except ValueError as error:
        raise UserError(f"--set {word}: {error}") from None


def _label(*parts: str | None) -> str:
    """Make a label of the parts that are there: letters, digits, '.', '_' and '-'."""
    joined = "_".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("._-") for part in parts if part)
    return joined or "set"


def _is_path(name: str) -> bool:
    return "/" in name or is_local(name)


def _require_subset(word: str, section: SetSection) -> None:
    """Ask for the subset of a set that is nothing without one, such as glue."""
    plugin = find_dataset_plugin(section.name)
    subset = load_dataset_plugin(plugin).Config.model_fields["subset"] if plugin else None
    if section.subset is None and subset is not None and subset.is_required():
        known = ", ".join(f"{section.name}:{name}" for name in get_args(subset.annotation))
        raise UserError(f"--set {word}: which of its sets? {known}")


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
    """Refuse words that change nothing here, or that would make it another model than the run's; gives the others.

    A run says itself what its prompt and rows are.

    Raises:
        ConfigError: With every such word.
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
    """Tell by the sets, and by the checkpoint where its rows suit either, what the model has to be."""
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
    """Build the configuration of evaluating a model on a set: the set's own prompt, else all defaults.

    Raises:
        ConfigError: With every mistake found.
    """
    document = Document(source="command line")
    written: dict[KeyPath, Any] = {
        ("task_type",): task_type,
        ("task_name",): label_of(model),
        ("model", "name_or_path"): model,
        ("peft", "method"): "lora",  # never attached; none would refuse a quantized model, which cannot be trained
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
    """Check that rows named on the command line are there."""
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
    if not of_run:  # asks for another task than the default of a model without run
        yield from (str(task.SECTION) for task in find_tasks(task_type).values() if task.JUDGES)


def _is_allowed(path: KeyPath, allowed: Sequence[str], of_run: bool) -> bool:
    section, key = path[0], path[1] if len(path) > 1 else ""
    for kind in _SECTIONS.get(section, ()):
        key = kind.ALIASES.get(key, key)
    if section == "dataset" and not of_run:  # the prompt and the columns are the caller's to say
        return key not in _NOT_EVALUATED
    return section in allowed or f"{section}.{key}".rstrip(".") in allowed


def _explain(path: KeyPath, task_type: str, of_run: bool, allowed: Sequence[str]) -> str:
    if path[0] == "evaluation" and path[-1] in ("sets", "datasets"):
        return "name the sets by --set, once for each"
    if path[0] in ("generation", "evaluation") and not default_task(task_type).GENERATES:
        return "has no effect on a classifier; dataset.max_eval_samples limits its rows"
    trained = {"training", "peft", *task_sections()} - {"generation", "evaluation"}
    if path[0] in trained or path[-1] in _NOT_EVALUATED:
        return "has no effect here, since nothing is trained; take it out"
    reason = "is settled by the run" if of_run else "has no effect here"
    return f"{reason}; an evaluation takes {', '.join(f'{key}.*' if key == 'generation' else key for key in allowed)}"
