"""The model section: shorthands, refused values, and what is read from a folder without ML libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from utils.config.sections.model import ModelSection, QuantizationSection
from utils.modeling.source import local_problems, read_model_config


@pytest.mark.parametrize(
    ("written", "bits", "kind"),
    [
        ("nf4", 4, "nf4"),
        ("fp4", 4, "fp4"),
        ("int8", 8, "int8"),
        ("4bit", 4, "nf4"),
        ("8bit", 8, "int8"),
        ({}, 4, "nf4"),
        ({"bits": 8}, 8, "int8"),
        ({"type": "int8"}, 8, "int8"),
        ({"type": "NF4"}, 4, "nf4"),
        ({"bits": 4, "type": "fp4"}, 4, "fp4"),
    ],
)
def test_quantization_is_completed(written, bits, kind):
    quantization = ModelSection(name_or_path="a/b", quantization=written).quantization
    assert (quantization.bits, quantization.type) == (bits, kind)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"bits": 8, "type": "nf4"}, "contradicts bits 8; use int8"),
        ({"bits": 4, "type": "int8"}, "contradicts bits 4; use nf4 or fp4"),
        ({"bits": 8, "double_quant": False}, "double_quant has no effect with 8 bits"),
        ({"bits": 8, "compute_dtype": "float16"}, "compute_dtype has no effect with 8 bits"),
        ({"bits": 3}, "bits"),
        ("gptq", "gptq is unknown; use nf4"),
    ],
)
def test_refused_quantization_settings(written, says):
    with pytest.raises(ValidationError, match=says):
        ModelSection(name_or_path="a/b", quantization=written)


@pytest.mark.parametrize("written", [None, "none"])
def test_no_quantization(written):
    assert ModelSection(name_or_path="a/b", quantization=written).quantization is None


@pytest.mark.parametrize("quantization", ["nf4", "int8", "fp4"])
def test_a_resolved_section_can_be_read_again(quantization):
    section = ModelSection(name_or_path="a/b", quantization=quantization, dtype="bf16")
    assert ModelSection(**section.model_dump()) == section


@pytest.mark.parametrize(("written", "read"), [("bf16", "bfloat16"), ("fp16", "float16"), ("torch.float32", "float32")])
def test_dtype_spellings(written, read):
    assert ModelSection(name_or_path="a/b", dtype=written).dtype == read


def test_a_literal_secret_is_refused_and_not_repeated_in_the_message():
    with pytest.raises(ValidationError) as caught:
        ModelSection(name_or_path="a/b", token="hf_secret")
    message = caught.value.errors()[0]["msg"]
    assert "HF_TOKEN" in message
    assert "hf auth login" in message
    assert "hf_secret" not in message


@pytest.mark.parametrize("values", [{"attn_implementation": "spda"}, {"name_or_path": " "}, {"dtype": "int3"}])
def test_refused_values(values):
    with pytest.raises(ValidationError):
        ModelSection(**{"name_or_path": "a/b", **values})


def test_aliases_name_fields():
    for section in (ModelSection, QuantizationSection):
        assert set(section.ALIASES.values()) <= set(section.model_fields)
        assert not set(section.ALIASES) & set(section.model_fields)


def test_every_field_is_documented():
    for section in (ModelSection, QuantizationSection):
        assert all(field.description for field in section.model_fields.values())


def test_folder_problems(tmp_path: Path):
    def problems(path):
        return [problem for _, problem in local_problems(ModelSection(name_or_path=str(path)))]

    assert "does not exist" in problems(tmp_path / "none")[0]
    assert "holds no config.json" in problems(tmp_path)[0]
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "config.json").write_text("{}")
    assert "perhaps" in problems(tmp_path)[0]
    assert problems(tmp_path / "final_model") == []
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/base"}')
    assert problems(tmp_path)[0].endswith("its base is acme/base")
    (tmp_path / "adapter_config.json").write_text("[]")
    assert "name the base model" in problems(tmp_path)[0]
    assert problems("acme/on-the-hub") == []


def test_missing_template_is_a_problem(tmp_path: Path):
    def problems(template):
        return list(local_problems(ModelSection(name_or_path="a/b", chat_template=template)))

    [(key, problem)] = problems("nowhere.jinja")
    assert key == "chat_template"
    assert problem.startswith("no file nowhere.jinja")
    assert problems("chatml") == problems("r1") == problems("qwen3_training") == []
    assert problems("../chat_templates/qwen3_training"), "a path is a path"
    (tmp_path / "t.jinja").write_text("x")
    assert problems(str(tmp_path / "t.jinja")) == []


def test_config_of_a_folder_and_of_the_cache(tmp_path: Path, monkeypatch):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    repository = tmp_path / "hub" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert read_model_config(ModelSection(name_or_path=str(snapshot))) == config
    assert read_model_config(ModelSection(name_or_path="acme/tiny")) == config
    assert read_model_config(ModelSection(name_or_path="acme/tiny", revision="c0ffee")) == config
    assert read_model_config(ModelSection(name_or_path="acme/tiny", revision="other")) is None
    assert read_model_config(ModelSection(name_or_path="acme/other")) is None
    (snapshot / "config.json").write_text("{")
    assert read_model_config(ModelSection(name_or_path=str(snapshot))) is None


def test_reading_the_section_imports_no_ml_library():
    code = (
        "import sys; import utils.config.sections.model as s;"
        "s.ModelSection(name_or_path='a/b', quantization='nf4');"
        "print([n for n in ('torch', 'transformers', 'huggingface_hub', 'bitsandbytes') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
