"""IA3 on every family: what it rescales, and that saving and merging preserve it."""

from __future__ import annotations

import pytest

# Modules rescaled by default, and those rescaled at their input; by hand from each architecture.
GOLDEN = {
    "llama": ({"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
    "qwen2": ({"q_proj", "v_proj", "down_proj"}, {"down_proj"}),
    "gpt2": ({"c_attn", "c_proj"}, {"c_proj"}),
    "bert": ({"key", "value", "dense"}, {"dense"}),
    "roberta": ({"key", "value", "dense"}, {"dense"}),
    "distilbert": ({"k_lin", "v_lin", "lin2"}, {"lin2"}),
    "albert": ({"key", "value", "ffn_output"}, {"ffn_output"}),
    "deberta_v2": ({"key_proj", "value_proj", "dense"}, {"dense"}),
    "modernbert": ({"Wqkv", "Wo"}, {"Wo"}),
}


@pytest.mark.parametrize("family", GOLDEN)
def test_default_targets_and_reloading(attach, train_a_few_steps, read_logits, tmp_path, family):
    targets, inputs = GOLDEN[family]
    attached = attach(family, "ia3")
    rescaled = {name: module for name, module in attached.model.named_modules() if hasattr(module, "ia3_l")}
    rescaled = {name: module for name, module in rescaled.items() if hasattr(module, "is_feedforward")}
    assert {name.rsplit(".", 1)[-1] for name in rescaled} == targets
    assert {name.rsplit(".", 1)[-1] for name, module in rescaled.items() if module.is_feedforward} == inputs
    before = read_logits(attached.model, attached.tokenizer)
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    assert (trained - before).abs().max() > 1e-3
    attached.plugin.save(attached.model, tmp_path)
    loaded = attached.plugin.load(tmp_path, attached.load_base)
    assert (read_logits(loaded, attached.tokenizer) - trained).abs().max() < 1e-6
    assert (read_logits(attached.plugin.merge(loaded), attached.tokenizer) - trained).abs().max() < 1e-4


def test_all_linear_layers_can_be_rescaled(attach):
    model = attach("bert", "ia3", target_modules="all-linear", feedforward_modules=["output.dense"]).model
    whole = [name for name, module in model.named_modules() if hasattr(module, "is_feedforward")]
    assert len(whole) > 8
    assert not [name for name in whole if "classifier" in name]
