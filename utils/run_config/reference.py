"""Prints docs/configuration.md from the fields' docstrings: `python -m utils.run_config.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.json_schema import models_json_schema
from pydantic_core import PydanticUndefined

from utils.config.error_messages import describe_type
from utils.config.section import Section
from utils.config.sections.evaluation import EvaluationSection
from utils.config.sections.generation import GenerationSection
from utils.config.sections.model import ModelSection
from utils.config.sections.results import ResultsSection
from utils.config.sections.training import DROPPED, OURS, PLUGIN_KEYS, RENAMED, OwnTrainingSection, training_section
from utils.core import registry
from utils.run_config.older_table import OLDER, LeftOut, Moved
from utils.run_config.reader import header_class
from utils.tasks.sft.section import OwnSftSection, sft_section
from utils.tasks.task import all_tasks, task_sections, task_types

_INTRODUCTION = """# Configuration

Every key of a run's YAML file. This page is made from the code by `make docs`; edit the docstrings, not the page.

`extends: other.yaml` lays the file over another one (one level). `key=value` words on the command line win over the
file: `python train.py --config run.yaml training.learning_rate=1e-4 peft.lora_r=16`.

Relative paths start at the working directory; those in the project's own files are found from any.
"""


def write_reference() -> Iterator[str]:
    """Yield the page's lines."""
    yield _INTRODUCTION
    yield from _table("Top of the file", header_class(task_types()))
    yield from _table("model", ModelSection)
    yield from _nested_tables("model", ModelSection)
    yield from _write_plugins("peft", "adapters", "method")
    yield from _write_plugins("dataset", "datasets", "name")
    yield from _table("training: our own keys", OwnTrainingSection)
    yield from _nested_tables("training", OwnTrainingSection)
    own = set(OwnTrainingSection.model_fields)
    for key, package in PLUGIN_KEYS.items():
        for name in registry.names(package):
            yield from _table(f"training ({key}: {name})", registry.load(package, name).Config)
    yield from _table("training: passed to TrainingArguments", training_section(), skip=own)
    yield from _older_names()
    own_sft = set(OwnSftSection.model_fields)
    yield from _table("sft (task_type: CAUSAL_LM): our own keys", OwnSftSection)
    yield from _table("sft: passed to SFTConfig", sft_section(), skip=own_sft)
    for task in (each for each in all_tasks().values() if not each.IS_DEFAULT):
        yield from _table(f"{task.SECTION} (task_type: {task.TASK_TYPE})", task.sections()[str(task.SECTION)]())
    yield from _table("generation (task_type: CAUSAL_LM)", GenerationSection)
    yield from _table("evaluation (task_type: CAUSAL_LM)", EvaluationSection)
    yield from _nested_tables("evaluation", EvaluationSection)
    yield from _table("results", ResultsSection)


def _write_plugins(section: str, package: str, key: str) -> Iterator[str]:
    for plugin in registry.names(package):
        config = registry.load(package, plugin).Config
        yield from _table(f"{section} ({key}: {config.model_fields[key].default})", config)
        if (rate := getattr(config, "DEFAULT_LEARNING_RATE", None)) is not None:
            yield f"\nWhere the file does not set training.learning_rate, {rate:g} is taken, and said."
        yield from _nested_tables(section, config)


def _table(title: str, section: type[Section], skip: set[str] | None = None) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield "| key | takes | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in section.model_fields.items():
        if name not in (skip or set()):
            default = "the library's" if skip else _default(field)
            meaning = " ".join((field.description or "").split())
            cells = (f"`{name}`", describe_type(field.annotation), default, meaning)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _nested_tables(path: str, section: type[Section]) -> Iterator[str]:
    """Yield a table for each kind of mapping that is a value in the section, under the first key that takes it."""
    homes: dict[type[Section], str] = {}
    for name, field in section.model_fields.items():
        for nested in _nested_sections(field.annotation):
            homes.setdefault(nested, name)
    for nested, name in homes.items():
        yield from _table(f"{path}.{name}, as a mapping", nested)


def _nested_sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _nested_sections(part)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default is PydanticUndefined else field.default
    if isinstance(value, Section):
        value = "{" + ", ".join(f"{key}: {each}" for key, each in value.model_dump().items()) + "}"
    shown = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else str(value)
    return f"`{shown}`"


def _older_names() -> Iterator[str]:
    yield "\n## training: older names\n"
    yield "Accepted, mapped and mentioned once: " + ", ".join(f"`{old}` ({new})" for old, new in RENAMED.items()) + "."
    yield "\nAccepted without effect: " + ", ".join(f"`{old}` ({reason})" for old, reason in DROPPED.items()) + "."
    read_anyway = {key.removeprefix("training.") for key in OLDER}
    refused = ", ".join(f"`{old}` ({reason})" for old, reason in OURS.items() if reason and old not in read_anyway)
    yield f"\nRefused, because they live elsewhere: {refused}."
    yield "\n## Keys of earlier versions and like-minded frameworks\n"
    yield "Each is mentioned once. Names of columns and splits are taken where they are those that the set has anyway."
    yield "A prompt_template may end with the answer's column; peft.variant is lora, dora, rslora or qalora;"
    yield "peft.task_type stands for a task_type at the top; a section `wandb:` is training.wandb; a classifier's"
    yield "`generation:` is left out.\n"
    yield "| key | what becomes of it |"
    yield "|---|---|"
    yield from (f"| `{key}` | {_describe_rule(rule)} |" for key, rule in OLDER.items())


def _describe_rule(rule: Any) -> str:
    if isinstance(rule, Moved):
        return f"moved to `{rule.to}`"
    if isinstance(rule, LeftOut):
        values = " or ".join({True: "true", False: "false", None: "null"}[value] for value in rule.values)
        return f"left out{f' where {values}' if values else ''}: {rule.why}"
    return f"refused: {rule.why.replace('{share}', '0.05')}"


def build_schema() -> dict[str, Any]:
    """Build the JSON schema; `peft` and `dataset` accept the fields of any of their plug-ins."""
    single: dict[str, type[Section]] = {
        "model": ModelSection,
        "training": training_section(),
        **{name: build() for name, build in task_sections().items()},
        "results": ResultsSection,
    }
    plugins = {
        section: [registry.load(package, name).Config for name in registry.names(package)]
        for section, package in (("peft", "adapters"), ("dataset", "datasets"))
    }
    header = header_class(task_types()).model_json_schema()
    models = [*single.values(), *(config for configs in plugins.values() for config in configs)]
    references, definitions = models_json_schema([(model, "validation") for model in models])
    for definition in definitions["$defs"].values():
        definition.pop("required", None)  # `extends` or the command line may provide any required key
    definitions["$defs"]["ModelSection"]["properties"]["quantization"]["anyOf"].append({"type": "string"})
    properties: dict[str, Any] = {"extends": {"type": "string", "description": "Another file that this one extends."}}
    properties |= header["properties"]
    properties |= {name: references[(model, "validation")] for name, model in single.items()}
    for section, configs in plugins.items():
        properties[section] = {"anyOf": [references[(config, "validation")] for config in configs]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lora-ns run",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **definitions,
    }


if __name__ == "__main__":
    sys.stdout.write("\n".join(write_reference()) + "\n")
