"""layers_to_transform: every method adapts only these layers, and a missing layer is named."""

from __future__ import annotations

import logging
import re

import pytest

from utils.core.errors import ConfigError

METHODS = {"lora": {}, "adalora": {"num_training_steps": 20}, "vera": {}, "lokr": {}, "c3a": {"block_size": 16}}
"""Three of our own ways to build peft's configuration, and what each needs."""
BODY = {"llama": 7, "bert": 6, "gpt2": 4}
"""Linear layers in a layer of each family, counted by hand: all-linear adapts them."""


def _adapted(model):
    names = model.base_model.targeted_module_names
    return {int(re.search(r"\.(\d+)\.", name)[1]) for name in names}, len(names)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], "in full"])
def test_only_the_named_layer_is_adapted(attach, method, targets):
    full = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    written = full if targets == "in full" else targets
    model = attach("llama", method, target_modules=written, layers_to_transform=[1], **METHODS[method]).model
    count = {"all-linear": BODY["llama"], "in full": 1}.get(str(targets), 2)
    assert _adapted(model) == ({1}, count)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_all_linear_does_not_adapt_the_head(attach, family):
    model = attach(family, "lora", target_modules="all-linear", layers_to_transform=0).model
    assert _adapted(model) == ({0}, BODY[family])
    assert not hasattr(model.get_base_model().get_submodule("score" if family == "gpt2" else "classifier"), "lora_A")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers", [99, [0, 99], [1, 2]])
def test_a_missing_layer_is_named(attach, method, layers):
    absent = layers if isinstance(layers, int) else layers[-1]
    with pytest.raises(ConfigError) as caught:
        attach("llama", method, target_modules=["q_proj"], layers_to_transform=layers, **METHODS[method])
    assert str(caught.value) == (f"peft.layers_to_transform: no layer {absent}: the model has 2, numbered from 0 to 1")


def test_a_layer_without_target_modules_is_reported(attach, caplog):
    caplog.set_level(logging.WARNING)
    attach("llama", "lora", target_modules=["model.layers.0.self_attn.q_proj"], layers_to_transform=[0, 1])
    assert "peft.layers_to_transform: nothing is adapted in layer 1" in caplog.text


def test_the_saved_adapter_is_the_trained_one(attach, train_a_few_steps, read_logits, tmp_path):
    attached = attach("llama", "lora", target_modules="all-linear", layers_to_transform=[1])
    train_a_few_steps(attached)
    trained = read_logits(attached.model, attached.tokenizer)
    attached.plugin.save(attached.model, tmp_path)
    again = attached.plugin.load(tmp_path, attached.load_base)
    assert _adapted(again) == ({1}, BODY["llama"])
    assert (read_logits(again, attached.tokenizer) - trained).abs().max() < 1e-6
