"""bitsandbytes on the CPU: what is quantized, what is not, and that a LoRA on it learns."""

from __future__ import annotations

import pytest
import torch

from utils.core.errors import ModelError
from utils.modeling.sizes import count_parameters

HEADS = {
    "llama": {"score"},
    "gpt2": {"score"},
    "bert": {"bert.pooler.dense", "classifier"},
    "deberta": {"pooler.dense", "classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "modernbert": {"head.dense", "classifier"},
}


def packed_layers(model):
    import bitsandbytes

    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_not_quantized_and_the_body_is(load, kind, quantization):
    model, _ = load(kind, quantization=quantization)
    plain, _ = load(kind)
    linear = {name for name, module in plain.named_modules() if type(module).__name__ in ("Linear", "Conv1D")}
    assert packed_layers(model) == linear - HEADS[kind]
    for name in HEADS[kind]:
        layer = model.get_submodule(name)
        assert layer.weight.requires_grad
        assert torch.equal(layer.weight.float(), plain.get_submodule(name).weight)


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("num_labels", [None, 3])
def test_a_lora_on_a_quantized_base_learns(load, quantization, num_labels):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load("llama", num_labels=num_labels, quantization=quantization)
    assert model.is_loaded_in_8bit if quantization == "int8" else model.is_loaded_in_4bit
    task = "SEQ_CLS" if num_labels else "CAUSAL_LM"
    adapted = get_peft_model(model, LoraConfig(task_type=task, r=4, target_modules="all-linear"))
    batch = tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = torch.tensor([0, 2]) if num_labels else batch["input_ids"]
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    adapted.train()  # in eval mode bitsandbytes re-packs 4-bit weights for CPU inference
    losses = []
    for _ in range(4):
        loss = adapted(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05, losses


def test_a_language_models_output_layer_is_not_quantized(load):
    model, _ = load("llama", num_labels=None, quantization="nf4")
    assert "lm_head" not in packed_layers(model)
    assert len(packed_layers(model)) == 14


def test_logical_and_packed_counts(load):
    plain = count_parameters(load("llama")[0])
    model, _ = load("llama", quantization="nf4")
    counts = count_parameters(model)
    assert counts.total == plain.total
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("score"))
    counts = count_parameters(model)
    packed = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)  # q, o; k, v (one key-value head); mlp
    assert counts.trainable == 96
    assert counts.trainable_percent == pytest.approx(100 * 96 / plain.total)
    assert counts.trainable_percent_packed == pytest.approx(100 * 96 / (plain.total - packed / 2))


def test_settings_are_passed_to_bitsandbytes(load):
    settings = {"bits": 4, "type": "fp4", "double_quant": False, "compute_dtype": "float32"}
    config = load("llama", quantization=settings)[0].config.quantization_config
    assert config.bnb_4bit_quant_type == "fp4"
    assert config.bnb_4bit_use_double_quant is False
    assert config.bnb_4bit_compute_dtype == torch.float32


def test_a_quantized_checkpoint_is_not_quantized_again(load, tmp_path):
    model, tokenizer = load("llama", quantization="nf4")
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    with pytest.raises(ModelError, match="is quantized already"):
        load("llama", folder=tmp_path / "saved", quantization="nf4")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_to_be_sharded_are_stored_in_one_float_dtype(load, dtype):
    settings = {"bits": 4, "compute_dtype": dtype}
    usual, tokenizer = load("llama", quantization=settings, dtype=dtype)
    spread, _ = load("llama", quantization=settings, dtype=dtype, sharded=True)
    kept = {parameter.dtype for parameter in spread.parameters()}
    assert kept == {getattr(torch, dtype)}
    assert torch.uint8 in {parameter.dtype for parameter in usual.parameters()}
    assert count_parameters(spread) == count_parameters(usual)
    batch = tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        assert torch.equal(spread.train()(**batch).logits, usual.train()(**batch).logits)


SPREAD = """
import os, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from peft import LoraConfig, get_peft_model
from utils.modeling.base_model import load_base_model
from utils.modeling.head import HeadSpec
from utils.config.sections.model import ModelSection
from utils.modeling.tokenizer import load_tokenizer

def build(sharded):
    packed = {"bits": 4, "compute_dtype": "float32"}
    section = ModelSection(name_or_path=sys.argv[1], quantization=packed, dtype="float32")
    head = HeadSpec(2, ("a", "b"), "single_label_classification")
    model = load_base_model(section, load_tokenizer(section), head, 42, sharded)
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear")).train()

def learn(model):
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=0.05), []
    for _ in range(3):
        ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses

dist.init_process_group("gloo")
alone, spread = build(False), build(True)
for layer in spread.base_model.model.model.layers:
    fully_shard(layer)
fully_shard(spread)
weights = [each for each in spread.parameters() if not each.requires_grad]
assert all(type(each.data).__name__ == "DTensor" for each in weights), "nothing was spread"
expected, found = learn(alone), learn(spread)
assert max(abs(a - b) for a, b in zip(expected, found)) < 1e-5, (expected, found)
assert expected[-1] < expected[0] - 0.05, expected
dist.barrier()
dist.destroy_process_group()
print("as one", flush=True)
os._exit(0)
"""


def test_fsdp_on_4_bit_weights_trains_like_one_process(make_checkpoint, tmp_path):
    """Two processes, each with a shard of every weight; by torch's FSDP 2, as accelerate needs GPUs for it."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    (tmp_path / "spread.py").write_text(SPREAD)
    root = Path(__file__).parents[3]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, tmp_path / "spread.py", make_checkpoint("llama")],
        cwd=root, env=environment, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("as one") == 2
