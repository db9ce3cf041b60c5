"""A checkpoint's files are loaded completely, or refused in one sentence."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from utils.core.errors import ModelError, UserError
from utils.trainer.checkpoint_loading import explain_checkpoint, load_plain_checkpoint, require_like

FRESH = {
    "optimizer": [{"lr": 0.1, "betas": (0.9, 0.999), "fused": None, "amsgrad": False}],
    "scheduler": {"last_epoch": 0},
}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {
                "optimizer": [{"lr": 1, "betas": [0.9, 1], "fused": True, "amsgrad": None}],
                "scheduler": {"last_epoch": 7},
            },
            None,
        ),
        ({**FRESH, "more": 1}, None),
        ({**FRESH, "scheduler": {}}, "scheduler lacks last_epoch"),
        ({**FRESH, "scheduler": []}, "scheduler is no mapping"),
        ({**FRESH, "scheduler": {"last_epoch": "7"}}, "scheduler.last_epoch is str '7', and was int"),
        ({**FRESH, "optimizer": []}, "optimizer is not a list of 1"),
        (
            {**FRESH, "optimizer": [{**FRESH["optimizer"][0], "lr": True}]},
            r"optimizer\[0\].lr is bool 'True', and was float",
        ),
    ],
)
def test_states_of_other_types_are_refused(found, said):
    if said is None:
        require_like(found, FRESH, "run/checkpoint-4")
        return
    with pytest.raises(UserError, match=rf"run/checkpoint-4: cannot be resumed \({said}\); .*--resume checkpoint-N"):
        require_like(found, FRESH, "run/checkpoint-4")


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("save", [torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))])
def test_a_pickle_that_runs_code_is_refused(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(_Hostile(), tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="cannot be resumed"), explain_checkpoint("run/checkpoint-4"):
        torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert not (tmp_path / "it_ran").exists()


@pytest.fixture
def mixture():
    """Make a tiny mixture of experts: one tensor of all experts in memory, one per expert in the file."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 8, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 32,
             "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1}  # fmt: skip
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape))


@pytest.mark.parametrize("shard", ["50GB", "4KB"])
def test_experts_are_restored(shard, mixture, tmp_path):
    import torch

    mixture.save_pretrained(tmp_path, max_shard_size=shard)
    expected = {name: part.clone() for name, part in mixture.state_dict().items()}
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.add_(1.0)
    assert load_plain_checkpoint(mixture, tmp_path)
    assert all(torch.equal(part, expected[name]) for name, part in mixture.state_dict().items())


def test_float32_parameters_in_a_half_precision_model_are_not_rounded(mixture, tmp_path):
    import torch

    mixture.to(torch.bfloat16)
    mixture.lm_head.float()
    mixture.save_pretrained(tmp_path)
    expected = mixture.lm_head.weight.detach() + 1e-4
    with torch.no_grad():
        mixture.lm_head.weight.add_(1e-4)
    mixture.save_pretrained(tmp_path)
    mixture.lm_head.weight.data.zero_()
    assert load_plain_checkpoint(mixture, tmp_path)
    assert torch.equal(mixture.lm_head.weight, expected)
    assert mixture.model.norm.weight.dtype == torch.bfloat16


def test_a_missing_tensor_is_named(mixture, tmp_path):
    from safetensors.torch import load_file, save_file

    mixture.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    gone = "model.norm.weight"
    save_file({name: part for name, part in tensors.items() if name != gone}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"lacks 1 trained tensors such as {gone}; take another one"):
        load_plain_checkpoint(mixture, tmp_path)
