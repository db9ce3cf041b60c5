"""The JSON schema for editors agrees with what the reader accepts."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from utils.config.yaml_text import parse_value
from utils.run_config.reference import build_schema, write_reference


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = build_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_lists_sections_and_documents_keys() -> None:
    schema = build_schema()
    assert {
        "extends",
        "task_name",
        "task_type",
        "extensions",
        "seed",
        "model",
        "peft",
        "dataset",
        "training",
        "sft",
        "dpo",
        "kto",
        "grpo",
        "reward",
        "generation",
        "evaluation",
        "results",
    } == set(schema["properties"])
    assert all(each["description"] for name, each in schema["$defs"]["ModelSection"]["properties"].items())
    assert "learning_rate" in schema["$defs"]["TrainingSection"]["properties"]


def test_every_key_that_the_schema_knows_is_on_the_page() -> None:
    page = "\n".join(write_reference())
    keys = {key for each in build_schema()["$defs"].values() for key in each.get("properties", ())}
    assert sorted(key for key in keys if f"| `{key}` |" not in page) == []


@pytest.mark.parametrize(
    "text",
    [
        "{extends: other.yaml}",
        "{task_type: SEQ_CLS, training: {learning_rate: 3e-4}}",
        "{model: {quantization: nf4}}",
        "{model: {quantization: {bits: 4}}}",
        "{peft: {method: none}}",
        "{peft: {method: lora, lora_r: 8}}",
        "{dataset: {name: glue, subset: rte}}",
        "{dataset: {name: custom, path: x, text_column: [a, b]}}",
    ],
)
def test_the_schema_accepts_valid_files(text: str, validator: jsonschema.Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(parse_value(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "{trainin: {}}",
        "{peft: {method: lora, lora_rr: 8}}",
        "{peft: {method: none, lora_r: 8}}",
        "{seed: many}",
        "{training: {seed: 1}}",
        "{training: {eval_strategy: often}}",
        "{task_type: OTHER}",
        "{model: {token: hf_x}}",
        "{dataset: {name: glue, subset: mrcp}}",
        "{peft: {method: lora, lora_r: 0}}",
        "{model: [1]}",
    ],
)
def test_the_schema_refuses_invalid_files(text: str, validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(parse_value(text))


def test_the_schema_is_plain_data() -> None:
    def walk(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and walk(inner) for key, inner in value.items())
        return all(map(walk, value)) if isinstance(value, list) else isinstance(value, (str, int, float, type(None)))

    assert walk(build_schema())
