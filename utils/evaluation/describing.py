"""Resolve the configured sets: their datasets, their rows, and their prompts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from utils.config.error_messages import suggest
from utils.config.sections.dataset import InstructionSection
from utils.config.sections.evaluation import EvaluationSection, SetSection, label_of
from utils.core import registry
from utils.core.errors import ConfigError, Problem
from utils.data.dataset import InstructionSet, describe_instructions, find_dataset_plugin, load_dataset_plugin
from utils.data.row_files import is_local, is_row_file
from utils.metrics.metric import load_metric

COMBINED = "combined"
"""The name of the sum of all sets' scores."""
_OF_ITS_DATASET = ("path", "subset", "subsets", "prompts_file", "protocol")
"""Keys of a set that its dataset's section reads."""
_USUAL_SPLITS = ("train", "validation", "valid", "val", "dev", "eval", "test")


@dataclass(frozen=True)
class DescribedSet:
    """A set before its rows are read."""

    label: str
    spec: InstructionSet
    section: InstructionSection
    is_own: bool
    """Whether its own dataset makes its prompts: for the run's own set, and sets with their own prompt."""
    max_samples: int | None
    """Number of prompts to answer, from the first."""
    max_new_tokens: int | None
    """Maximum tokens of an answer; None: the run's."""

    @property
    def combined_metrics(self) -> tuple[str, ...]:
        """Metrics in the combined score: those the dataset names, as far as they are computed."""
        named = tuple(load_metric(name).name for name in self.spec.combined_metrics)
        return tuple(name for name in named if name in self.spec.metrics) or self.spec.metrics[:1]


def name_score(label: str, metric: str) -> str:
    """Return the name of a set's metric among those of others; a metric named after the set gets no prefix."""
    return metric if metric.startswith(f"{label}_") else f"{label}_{metric}"


def ask_otherwise(section: InstructionSection, template: str) -> InstructionSection:
    """Return the run's set with the prompt of evaluation.prompt_template.

    Raises:
        ConfigError: The set does not support it.
    """
    changed = section.model_copy(update={"prompt_template": template})
    if problem := changed.find_conflicts().get("prompt_template"):
        raise ConfigError([Problem(problem, "evaluation.prompt_template")])
    return changed


def describe_sets(
    evaluation: EvaluationSection, own: InstructionSet, own_section: InstructionSection
) -> list[DescribedSet]:
    """Describe every set; a dataset may expand one into several.

    Raises:
        ConfigError: A set has no dataset plug-in, its settings are wrong, or two results would have the same label.
    """
    if evaluation.set_sections is None:
        label = label_of(_name_own(own_section))
        return [DescribedSet(label, own, own_section, True, evaluation.max_samples, own.max_new_tokens)]
    found = [
        each
        for section in evaluation.set_sections
        for each in _describe(section, own, own_section, evaluation.max_samples)
    ]
    twice = [label for label, count in Counter(each.label for each in found).items() if count > 1]
    if twice:
        raise ConfigError(f"evaluation.sets: two results are called {twice[0]}; give one of their sets another label")
    return found


def _name_own(section: InstructionSection) -> str:
    return section.path if section.name == "custom" and section.path else section.name


def _describe(
    section: SetSection, own: InstructionSet, own_section: InstructionSection, max_samples: int | None
) -> Iterator[DescribedSet]:
    """Yield descriptions of a set's rows by its dataset; the run's own dataset keeps the run's settings."""
    plugin, path = _find_plugin(section, own_section)
    is_own = plugin == registry.normalize(own_section.name)
    given = {key: value for key in _OF_ITS_DATASET if (value := getattr(section, key)) is not None}
    given |= section.dataset | ({"path": path} if path is not None else {})
    config = _build_config(plugin, section.name, given, own_section if is_own else None)
    moved = bool(given) or section.split is not None
    for label, each in _expand(plugin, section, config):
        described = own if is_own and not moved and each is config else describe_instructions(each)
        metrics = tuple(load_metric(name).name for name in section.metrics) if section.metrics else described.metrics
        spec = dataclasses.replace(described, generation_split=choose_split(section, path, described), metrics=metrics)
        yield DescribedSet(
            label,
            spec,
            each,
            is_own or spec.own_prompt,
            section.max_samples or max_samples,
            section.max_new_tokens or spec.max_new_tokens,
        )


def choose_split(section: SetSection, path: str | None, described: InstructionSet) -> str | None:
    """Return the split whose prompts are answered; a single file is one split, `train`, whatever its name.

    Raises:
        ConfigError: A split of a single file is neither the file's name nor that of any usual split.
    """
    if path is not None and is_row_file(path) and described.open_split is None:
        name, bracket, rest = (section.split or "train").partition("[")
        if name not in (*_USUAL_SPLITS, Path(path).stem):
            raise ConfigError(f"evaluation.sets: {path} is one file, without a split {name}; leave the split out")
        return f"train{bracket}{rest}"
    return section.split or described.generation_split


def _find_plugin(section: SetSection, own_section: InstructionSection) -> tuple[str, str | None]:
    """Find the plug-in of a name, and the path if the name is itself a hub id, folder or file."""
    name = section.name
    if plugin := find_dataset_plugin(name):
        return plugin, section.path if registry.has("datasets", name) else section.path or name
    if "/" in name or is_local(name):
        # Rows of the run's own kind, most likely: a custom dataset would not know their columns.
        return registry.normalize(own_section.name), section.path or name
    raise ConfigError(
        f"evaluation.sets: no dataset, file or folder called {name}{suggest(name, registry.names('datasets'))}"
    )


def _build_config(
    plugin: str, name: str, given: dict[str, Any], own_section: InstructionSection | None
) -> InstructionSection:
    """Build a dataset's section from given keys, for the run's own dataset on top of the run's section."""
    kind = load_dataset_plugin(plugin).Config
    if not issubclass(kind, InstructionSection):
        raise ConfigError(f"evaluation.sets: {name} is for task_type: {' or '.join(kind.TASK_TYPES)}, not CAUSAL_LM")
    if unknown := [key for key in given if key not in kind.model_fields]:
        raise ConfigError(f"evaluation.sets: {name}: the dataset {plugin} takes no {unknown[0]}; leave it out")
    if own_section is not None and not given:
        return own_section
    base = {} if own_section is None else own_section.model_dump(exclude_unset=True)
    if is_row_file(given.get("path") or ""):  # scored whole: only max_samples limits it
        base = {key: value for key, value in base.items() if key != "max_eval_samples"}
    if given.keys() & {"subset", "subsets"}:
        base = {key: value for key, value in base.items() if key not in ("subset", "subsets")}
    try:
        return kind.model_validate({**base, "name": plugin, **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        raise ConfigError(f"evaluation.sets: {name}: {where}: {reason}") from error


def _expand(plugin: str, section: SetSection, config: InstructionSection) -> list[tuple[str, InstructionSection]]:
    """Return the sets, with labels, into which a dataset expands a named one."""
    expand = getattr(registry.load("datasets", plugin), "expand", None)
    if expand is None:
        return [(section.resolved_label, config)]
    parts: list[tuple[str, InstructionSection]] = expand(config)
    if section.label is None:
        return parts
    return [(section.label if len(parts) == 1 else f"{section.label}_{label}", each) for label, each in parts]
