"""Checkpoints that are already quantized: loaded unchanged, trained on, or refused in one sentence."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.modeling.quantization import (
    checkpoint_problem,
    exclude_from_quantization,
    find_storage,
    read_format,
    require_trainable,
)

GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}


@pytest.fixture
def make_quantized(make_checkpoint, tmp_path):
    """Return a function that saves a quantized checkpoint, as plain transformers does, and returns its folder."""

    def make(kind, stored):
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BitsAndBytesConfig

        base, folder = make_checkpoint(kind), tmp_path / f"{kind}-{stored}"
        if stored == "torchao":
            from torchao.quantization import Int8WeightOnlyConfig
            from transformers import TorchAoConfig

            settings = TorchAoConfig(Int8WeightOnlyConfig())
        elif stored == "int8":
            settings = BitsAndBytesConfig(load_in_8bit=True)
        else:
            settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=stored)
        auto = AutoModelForCausalLM if kind == "llama" else AutoModelForMaskedLM
        model = auto.from_pretrained(base, quantization_config=settings, device_map={"": "cpu"})
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"quantization_config": None}, None),
        (GPTQ, "gptq"),
        ({"quantization_config": {"quant_method": "AWQ"}}, "awq"),
        ({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, "nf4"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "int8"),
        ({"quantization_config": {"bits": 4}}, "unknown"),
    ],
)
def test_the_format_is_read_from_config_json(config, expected):
    assert read_format(config) == expected


def test_the_storage_dtype_is_the_configured_one_or_else_the_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **GPTQ}))
    assert find_storage(ModelSection(name_or_path=str(tmp_path))) == "gptq"
    assert find_storage(ModelSection(name_or_path=str(tmp_path), quantization="fp4")) == "fp4"


def test_asking_for_another_quantization_is_refused():
    section = ModelSection(name_or_path="./x", quantization="nf4")
    assert checkpoint_problem(section, GPTQ) == (
        "./x is quantized already (gptq); remove model.quantization, or name the unquantized checkpoint to store it "
        "as nf4"
    )


@pytest.mark.parametrize(
    ("method", "pip"),
    [
        ("gptq", "gptqmodel optimum"),
        ("awq", "gptqmodel"),
        ("compressed-tensors", "compressed-tensors"),
        ("aqlm", "'aqlm[gpu,cpu]'"),
    ],
)
def test_missing_packages_are_named_with_the_pip_command(method, pip):
    if importlib.util.find_spec(pip.split()[0].replace("-", "_").strip("'").split("[")[0]):
        pytest.skip("the package is installed here")
    problem = checkpoint_problem(ModelSection(name_or_path="./x"), {"quantization_config": {"quant_method": method}})
    assert problem == f"./x is stored as {method}, which needs more packages; run pip install {pip}"


def test_loading_refuses_with_the_same_message(make_checkpoint, load):
    folder = make_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **GPTQ}))
    if importlib.util.find_spec("gptqmodel"):
        pytest.skip("gptqmodel is installed here")
    with pytest.raises(ModelError, match="stored as gptq, which needs more packages; run pip install gptqmodel"):
        load("llama", folder=folder)


def test_weights_that_are_not_quantized_as_stated_are_rejected(make_checkpoint, load):
    folder = make_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    stated = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (folder / "config.json").write_text(json.dumps({**config, **stated}))
    with pytest.raises(ModelError, match=r"q_proj\.weight is not; remove quantization_config"):
        load("llama", num_labels=None, folder=folder)


@pytest.mark.parametrize("num_labels", [None, 3])
@pytest.mark.parametrize("stored", ["nf4", "fp4", "int8", "torchao"])
def test_it_loads_unchanged_and_a_lora_on_it_learns(make_quantized, load, stored, num_labels):
    if stored == "torchao":
        pytest.importorskip("torchao", reason="torchao is not installed")
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load("llama", num_labels=num_labels, folder=make_quantized("llama", stored))
    assert model.is_quantized
    require_trainable(model)
    task = "SEQ_CLS" if num_labels else "CAUSAL_LM"
    adapted = get_peft_model(model, LoraConfig(task_type=task, r=4, target_modules="all-linear"))
    batch = tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = torch.tensor([0, 2]) if num_labels else batch["input_ids"]
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(4):
        loss = adapted.train()(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05, losses


@pytest.mark.parametrize("stored", ["nf4", "int8"])
def test_a_classifiers_new_head_is_not_quantized(make_quantized, load, stored):
    model, _ = load("bert", folder=make_quantized("bert", stored))
    plain, _ = load("bert", folder=None)
    assert type(model.classifier) is torch.nn.Linear
    assert torch.equal(model.classifier.weight.float(), plain.classifier.weight)  # drawn by the seed, as on any base
    assert type(model.bert.encoder.layer[0].attention.self.query).__name__ in ("Linear4bit", "Linear8bitLt")


def test_integers_in_place_of_a_head_are_refused(make_checkpoint, tmp_path, load):
    from transformers import AutoModelForMaskedLM, AutoTokenizer, BitsAndBytesConfig

    base = make_checkpoint("modernbert")
    settings = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForMaskedLM.from_pretrained(base, quantization_config=settings, device_map={"": "cpu"})
    model.save_pretrained(tmp_path / "packed")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "packed")
    with pytest.raises(ModelError, match=r"holds head.dense.weight packed \(torch.int8\)"):
        load("modernbert", folder=tmp_path / "packed")


@pytest.mark.parametrize(
    ("stored", "key", "expected"),
    [
        ({"quant_method": "torchao"}, "modules_to_not_convert", ["^score"]),
        (
            {"quant_method": "awq", "modules_to_not_convert": ["lm_head"]},
            "modules_to_not_convert",
            ["lm_head", "^score"],
        ),
        ({"quant_method": "compressed-tensors", "ignore": ["lm_head"]}, "ignore", ["lm_head", "re:^score.*"]),
        ({"load_in_8bit": True, "llm_int8_skip_modules": None}, "llm_int8_skip_modules", ["^score"]),
    ],
)
def test_the_head_is_added_to_the_checkpoints_unquantized_modules(stored, key, expected):
    from transformers import LlamaConfig

    config = LlamaConfig(quantization_config=stored)
    exclude_from_quantization(config, ["^score"])
    assert config.quantization_config[key] == expected


def test_formats_without_a_gradient_are_refused_for_training():
    from types import SimpleNamespace

    from transformers import LlamaConfig

    config = LlamaConfig(quantization_config={"quant_method": "fbgemm_fp8"})
    quantizer = SimpleNamespace(is_trainable=False)
    model = SimpleNamespace(hf_quantizer=quantizer, config=config, name_or_path="owner/base")
    with pytest.raises(ModelError, match="stored as fbgemm_fp8, which transformers can use but not train"):
        require_trainable(model)
