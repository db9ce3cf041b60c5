"""The JSON schema of a run's file, for completion and checking in editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from utils.config.section import Section
from utils.config.sections.model import ModelSection
from utils.config.sections.results import ResultsSection
from utils.config.sections.training import training_section
from utils.core import registry
from utils.run_config.sections import header_class
from utils.tasks.task import task_sections, task_types


def build_schema() -> dict[str, Any]:
    """Build the schema; `peft` and `dataset` take the fields of whichever dataset is chosen."""
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
        definition.pop("required", None)  # a file may leave to `extends` or to the command line what it likes
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
