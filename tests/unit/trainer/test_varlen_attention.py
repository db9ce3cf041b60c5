"""Documents in one flattened row: each gives what it gives alone, or packing is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from utils.core.errors import ModelError
from utils.trainer.flat_batches import FlatCollator
from utils.trainer.trained_head import install_trained_head
from utils.trainer.varlen_attention import (
    NAME,
    plain_attention,
    require_separate_documents,
    separate_documents,
)

_SMALL = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
          "eos_token_id": 2}  # fmt: skip


def _build(model_type="llama", attention="sdpa", **keys):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**{**_SMALL, **keys})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def _documents(lengths=(3, 17, 8, 9, 1, 2)):
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 61, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": each, "labels": [-100] * (len(each) // 3) + each[len(each) // 3 :]} for each in ids]


def _losses(model, flattened):
    """Return the summed loss and the gradients of one batch of documents."""
    collate = FlatCollator(pad_token_id=0, padding_free=flattened)
    output = model(**collate(_documents()), trained_positions=True)
    output.loss.backward()
    grads = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return output, grads


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral", "gpt2", "olmo2", "phi3", "starcoder2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flattened_and_padded_batches_train_equally(model_type, checkpointing):
    keys = {"n_embd": 32, "n_layer": 2, "n_head": 4, "attn_pdrop": 0, "resid_pdrop": 0, "embd_pdrop": 0}
    model = _build(model_type, **(keys if model_type == "gpt2" else {})).train()
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    install_trained_head(model)
    padded, padded_grads = _losses(model, flattened=False)
    assert separate_documents(model) is None
    flat, flat_grads = _losses(model, flattened=True)
    assert flat.num_targets == padded.num_targets
    assert torch.isclose(flat.loss, padded.loss, rtol=1e-6)
    assert flat_grads.keys() == padded_grads.keys()
    for name, grad in padded_grads.items():
        assert torch.allclose(flat_grads[name], grad, atol=1e-5), name


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "mistral", "sliding_window": 4},
        {"model_type": "qwen2", "sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
        {
            "model_type": "gemma3_text",
            "sliding_window": 3,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ],
    ids=lambda keys: keys["model_type"],
)
def test_long_documents_attend_within_the_sliding_window(keys):
    model = _build(**keys).train()
    install_trained_head(model)
    padded, padded_grads = _losses(model, flattened=False)
    require_separate_documents(model)
    flat, flat_grads = _losses(model, flattened=True)
    assert torch.isclose(flat.loss, padded.loss, rtol=1e-6)
    assert all(torch.allclose(flat_grads[name], grad, atol=1e-5) for name, grad in padded_grads.items())


def test_a_peft_model_keeps_documents_separate_too():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_build(), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    install_trained_head(model)
    padded, _ = _losses(model, flattened=False)
    require_separate_documents(model)
    assert torch.isclose(_losses(model, flattened=True)[0].loss, padded.loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"attention": "eager"}, "eager cannot keep documents apart"),
        ({"model_type": "gemma2", "head_dim": 8, "attention": "eager"}, "eager cannot keep documents apart"),
        ({"model_type": "bloom", "n_head": 4, "attention": "eager"}, "eager cannot keep documents apart"),
    ],
)
def test_models_that_mix_documents_are_refused_and_left_unchanged(keys, reason):
    model = _build(**keys)
    before = model.config._attn_implementation
    with pytest.raises(ModelError, match=reason):
        require_separate_documents(model)
    assert model.config._attn_implementation == before


def test_prompt_learning_is_detected_as_mixing_documents():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(_build(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    assert separate_documents(model) is not None


def test_missing_document_boundaries_are_refused():
    model = _build().eval()
    assert separate_documents(model) is None
    with pytest.raises(NotImplementedError, match="not told where documents begin"):
        model(input_ids=torch.tensor([[3, 4, 5]]))


def test_plain_attention_is_restored_afterwards():
    model = _build().eval()
    alone = copy.deepcopy(model)
    assert separate_documents(model) is None
    ids = torch.tensor([[3, 4, 5]])
    with plain_attention(model):
        assert torch.equal(model(input_ids=ids).logits, alone(input_ids=ids).logits)
    assert model.config._attn_implementation == NAME
