"""Validation of an already quantized checkpoint, from its config.json and without any ML library."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import ConfigError
from utils.run_config.load import inspect_run_config

FORMATS = {
    "gptq": {"quant_method": "gptq", "bits": 4},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "hqq": {"quant_method": "hqq"},
}


@pytest.fixture
def inspect(tmp_path, make_set, draw_rows, monkeypatch):
    """Return a function that inspects a run on a checkpoint of a format and returns the problems by key."""
    monkeypatch.setattr("utils.modeling.quantization._NEEDS", {})  # as if every package were installed

    def run(stored, **peft):
        base = tmp_path / stored
        base.mkdir(exist_ok=True)
        (base / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": FORMATS[stored]}))
        data = make_set(train=draw_rows(4), validation=draw_rows(4, seed=1))
        settings = {
            "task_type": "SEQ_CLS",
            "model": {"name_or_path": str(base), "quantization": peft.pop("quantization", None)},
            "peft": peft,
            "dataset": {"name": "custom", "path": str(data)},
            "training": {"output_dir": str(tmp_path / "run")},
        }
        file = tmp_path / "run.yaml"
        file.write_text(json.dumps(settings))  # JSON is YAML
        return {each.path: each.message for each in inspect_run_config(file).problems}

    return run


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("method", ["lora", "vera", "oft", "prompt-tuning", "qst"])
def test_a_quantized_checkpoint_is_accepted(inspect, stored, method):
    assert inspect(stored, method=method) == {}


def test_quantizing_it_again_is_refused(inspect):
    found = inspect("gptq", method="lora", quantization="nf4")
    assert list(found) == ["model.quantization"]
    assert "is quantized already (gptq); remove model.quantization" in found["model.quantization"]


@pytest.mark.parametrize("method", ["none", "head-only"])
@pytest.mark.parametrize("stored", FORMATS)
def test_methods_that_train_base_weights_are_refused(inspect, stored, method):
    message = inspect(stored, method=method)["peft.method"]
    assert f"is stored as {stored}" in message
    assert "name the unquantized checkpoint" in message


@pytest.mark.parametrize(("method", "stored"), [("adalora", "hqq"), ("ia3", "gptq"), ("randlora", "hqq")])
def test_formats_peft_cannot_wrap_are_refused(inspect, method, stored):
    message = inspect(stored, method=method)["peft.method"]
    assert f"which is stored as {stored}: peft cannot wrap its layers for this method; use lora" in message


def test_dora_is_refused_for_unsupported_formats(inspect):
    assert "set peft.use_dora: false" in inspect("gptq", method="lora", use_dora=True)["peft.method"]
    assert inspect("hqq", method="lora", use_dora=True) == {}


def test_qalora_requires_gptq(inspect, make_config):
    assert inspect("gptq", method="lora", use_qalora=True, qalora_group_size=32) == {}
    assert "QA-LoRA is for bases in GPTQ" in inspect("hqq", method="lora", use_qalora=True)["peft.method"]
    found = inspect("gptq", method="lora", use_qalora=True, use_dora=True, init_lora_weights="gaussian")
    assert "cannot be used with use_dora" in found["peft.use_qalora"]
    assert "peft initializes A itself" in found["peft.init_lora_weights"]
    with pytest.raises(ConfigError, match=r"QA-LoRA is for bases in GPTQ, and \S+ is not quantized; set peft\.use_q"):
        make_config("bert", peft={"method": "lora", "use_qalora": True})
