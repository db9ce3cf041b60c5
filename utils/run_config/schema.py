"""The JSON schema of a run's file, for completion and checking in editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from utils.config.section import Section
from utils.modeling.section import ModelSection
from utils.results.section import ResultsSection
from utils.rooms import list_rooms, open_room
from utils.run_config.sections import CAUSAL_SECTIONS, Header
from utils.training.section import training_section


def build_schema() -> dict[str, Any]:
    """Build the schema; `peft` and `dataset` take the fields of whichever room is chosen."""
    single: dict[str, type[Section]] = {
        "model": ModelSection,
        "training": training_section(),
        **{name: build() for name, build in CAUSAL_SECTIONS.items()},
        "results": ResultsSection,
    }
    rooms = {
        section: [open_room(floor, name).Config for name in list_rooms(floor)]
        for section, floor in (("peft", "adapters"), ("dataset", "data"))
    }
    header = Header.model_json_schema()
    models = [*single.values(), *(config for configs in rooms.values() for config in configs)]
    references, definitions = models_json_schema([(model, "validation") for model in models])
    for definition in definitions["$defs"].values():
        definition.pop("required", None)  # a file may leave to `extends` or to the command line what it likes
    definitions["$defs"]["ModelSection"]["properties"]["quantization"]["anyOf"].append({"type": "string"})
    properties: dict[str, Any] = {"extends": {"type": "string", "description": "Another file that this one extends."}}
    properties |= header["properties"]
    properties |= {name: references[(model, "validation")] for name, model in single.items()}
    for section, configs in rooms.items():
        properties[section] = {"anyOf": [references[(config, "validation")] for config in configs]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lora-ns run",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **definitions,
    }
