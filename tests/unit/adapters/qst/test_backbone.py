"""How layers and the end of the body are found, how side blocks are built, and parameter counts for real models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from utils.adapters.qst.backbone import describe_backbone, find_backbone, inspect_block
from utils.core.errors import ModelError

CONFIGS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "model_configs"
PLACES = {
    "llama": ("model.layers", "model.norm"),
    "qwen2": ("model.layers", "model.norm"),
    "qwen3": ("model.layers", "model.norm"),
    "mistral": ("model.layers", "model.norm"),
    "gemma": ("model.layers", "model.norm"),
    "gemma3": ("model.layers", "model.norm"),
    "phi": ("model.layers", "model.final_layernorm"),
    "gpt_neox": ("gpt_neox.layers", "gpt_neox.final_layer_norm"),
    "cohere": ("model.layers", "model.norm"),
    "gpt2": ("transformer.h", "transformer.ln_f"),
    "opt": ("model.decoder.layers", "model.decoder.final_layer_norm"),
    "bert": ("bert.encoder.layer", "bert.encoder.layer.2"),
    "roberta": ("roberta.encoder.layer", "roberta.encoder.layer.2"),
    "distilbert": ("distilbert.transformer.layer", "distilbert.transformer.layer.2"),
    "deberta_v2": ("deberta.encoder.layer", "deberta.encoder.layer.2"),
    "modernbert": ("model.layers", "model.final_norm"),
}
ENCODERS = ("bert", "roberta", "distilbert", "deberta_v2", "modernbert")
# Inner width of the MLP, gated, biases, norm, activation, causal, head_dim; by hand from each architecture.
KINDS = {
    "llama": (48, True, False, "rms", "silu", True, 16),
    "qwen2": (48, True, False, "rms", "silu", True, 16),
    "qwen3": (48, True, False, "rms", "silu", True, 8),
    "mistral": (48, True, False, "rms", "silu", True, 16),
    "gemma": (48, True, False, "rms", "gelu_pytorch_tanh", True, 16),
    "gemma3": (48, True, False, "rms", "gelu_pytorch_tanh", True, 16),
    "phi": (48, False, True, "layer", "gelu_new", True, 16),
    "gpt_neox": (48, False, True, "layer", "gelu", True, 16),
    "cohere": (48, True, False, "rms", "silu", True, 16),
    "gpt2": (48, False, True, "layer", "gelu_new", True, 16),
    "opt": (48, False, True, "layer", "relu", True, 16),
    "bert": (48, False, True, "layer", "gelu", False, 16),
    "roberta": (48, False, True, "layer", "gelu", False, 16),
    "distilbert": (48, False, True, "layer", "gelu", False, 16),
    "deberta_v2": (48, False, True, "layer", "gelu", False, 16),
    "modernbert": (48, True, False, "layer", "gelu", False, 16),
}


def _task(family):
    return "SEQ_CLS" if family in ENCODERS else "CAUSAL_LM"


CLASSIFIERS = tuple(family for family in PLACES if family != "cohere")  # transformers has no classifier for it
DECODERS = tuple(family for family in PLACES if family not in ENCODERS)


@pytest.mark.parametrize(
    ("family", "task_type"),
    [*((family, "SEQ_CLS") for family in CLASSIFIERS), *((family, "CAUSAL_LM") for family in DECODERS)],
)
def test_layers_and_norm_are_found_in_every_family(build_base, family, task_type):
    found = find_backbone(build_base(family, task_type))
    assert (found.layers_path, found.mix_path, found.num_layers) == (*PLACES[family], 3)
    assert found.ends_with_layer == (family in ENCODERS and family != "modernbert")


@pytest.mark.parametrize("family", KINDS)
def test_block_shapes_are_read_from_the_first_layer(build_base, family):
    model = build_base(family, _task(family), intermediate_size=48)
    kind = inspect_block(model, model.get_submodule(find_backbone(model).layers_path)[0])
    assert kind.hidden_size == 32
    found = (
        kind.intermediate_size, kind.is_gated, kind.has_bias, kind.norm, kind.activation, kind.is_causal, kind.head_dim
    )  # fmt: skip
    assert found == KINDS[family]


def test_the_same_weights_with_another_config_have_another_identity(build_base):
    """One's cached hidden states must not be read for the other."""
    model = build_base("llama")
    before = describe_backbone(model, [0])
    assert describe_backbone(model, [0]) == before == json.loads(json.dumps(before))
    model.config.rope_parameters["rope_theta"] *= 2
    assert describe_backbone(model, [0]) != before


def test_shared_layers_are_refused(attach):
    with pytest.raises(ModelError, match=r"qst does not fit a model of the type albert, .* use lora") as caught:
        attach("albert", "qst")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "keys", "reason"),
    [
        ("Bloom", {"n_layer": 2, "n_head": 2}, "ALiBi"),
        ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 2}, "ALiBi"),  # its masks mark hidden positions
        ("Falcon", {"num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True}, "ALiBi"),
        ("Mamba", {"num_hidden_layers": 2}, "which has no attention"),
    ],
)
def test_unsupported_positions_and_layers_are_refused(attach_side_network, kind, keys, reason):
    import transformers

    config = getattr(transformers, f"{kind}Config")(vocab_size=64, hidden_size=32, **keys)
    with pytest.raises(ModelError, match=f"qst does not fit a model of the type {kind.lower()}, .*{reason}.*use lora"):
        attach_side_network(transformers.AutoModelForCausalLM.from_config(config))


def test_unsupported_masks_are_refused(attach_side_network):
    from transformers import LongformerConfig, LongformerForSequenceClassification

    config = LongformerConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        attention_window=4, max_position_embeddings=64,
    )  # fmt: skip
    adapted = attach_side_network(LongformerForSequenceClassification(config))
    with pytest.raises(ValueError, match=r"attend by a mask of shape .*which qst does not know; use lora"):
        adapted(torch.arange(8)[None])


def test_the_path_of_the_layers_can_be_set(build_base, attach_side_network, draw_batch):
    batch = draw_batch()
    with torch.no_grad():
        expected = attach_side_network(build_base("llama"))(**batch).logits
        found = attach_side_network(build_base("llama"), layers_path="model.layers")(**batch).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("path", ["model.blocks", "model.embed_tokens", "lm_head", "model.layers.7"])
def test_a_wrong_path_is_refused_in_one_sentence(build_base, attach_side_network, path):
    with pytest.raises(ModelError, match=rf"peft.layers_path: {path} is not a list of layers in this model"):
        attach_side_network(build_base("llama"), layers_path=path)


def test_a_model_without_known_layers_says_how_to_set_their_path(build_base):
    model = build_base("llama")
    model.model.layers = torch.nn.Sequential(*model.model.layers)
    with pytest.raises(ModelError, match=r"no list of layers in LlamaForCausalLM; name it by peft.layers_path"):
        find_backbone(model)
    model = build_base("llama")
    model.extra = model.model.layers[:]
    with pytest.raises(ModelError, match=r"several lists of layers \(model.layers, extra\)"):
        find_backbone(model)


def test_a_model_without_final_norm_ends_at_its_last_layer(build_base, attach_side_network, draw_batch):
    """OPT-350m ends without a norm and projects to another width."""
    changes = {"do_layer_norm_before": False, "word_embed_proj_dim": 16}
    model, batch = build_base("opt", **changes), draw_batch()
    with torch.no_grad():
        base = model(**batch).logits
        adapted = attach_side_network(model, scattered=False)
        assert adapted.base_model.backbone.mix_path == "model.decoder.layers.2"
        assert torch.equal(adapted(**batch).logits, base)


@pytest.mark.parametrize("bits", ["4", "8"])
def test_blocks_of_a_quantized_model_have_the_same_shapes(attach, tiny_base, bits):
    keys = {"name_or_path": str(tiny_base("llama", 64)), "quantization": {"bits": int(bits)}}
    side = {
        name: parameter.shape
        for name, parameter in attach("llama", "qst", model=keys, reduction_factor=4).model.named_parameters()
        if "qst_" in name
    }
    plain = attach("llama", "qst", model={"name_or_path": str(tiny_base("llama", 64))}, reduction_factor=4).model
    assert side == {name: parameter.shape for name, parameter in plain.named_parameters() if "qst_" in name}


def _count(name, task_type, num_labels=2, **keys):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from utils.adapters.adapter import AttachContext
    from utils.adapters.qst import Config, attach
    from utils.modeling.sizes import count_parameters

    folder = CONFIGS / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    config = AutoConfig.from_pretrained(folder, num_labels=num_labels)
    auto = AutoModelForCausalLM if task_type == "CAUSAL_LM" else AutoModelForSequenceClassification
    with torch.device("meta"):
        adapted = attach(auto.from_config(config), Config(**keys), AttachContext(task_type, task_type == "SEQ_CLS", 42))
    body = adapted.get_base_model().get_submodule(adapted.base_model.backbone.layers_path)
    packed = sum(part.weight.numel() for name, part in body.named_modules() if type(part).__name__ == "Linear")
    if adapted.base_model.backbone.ends_with_layer:
        packed -= sum(part.weight.numel() for part in adapted.base_model.mix.qst_side.modules() if _is_linear(part))
    return count_parameters(adapted), packed, json.loads((folder / "config.json").read_text())


def _is_linear(part):
    return type(part).__name__ == "Linear"


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_the_parameter_count_of_llama_1b(num_labels):
    """As a classifier: 5,058,960 beside the backbone, and a head without bias of 2048 for each label."""
    counts, _, _ = _count("Llama-3.2-1B", "SEQ_CLS", num_labels)
    assert counts.trainable == 5_058_960 + 2048 * num_labels


@pytest.mark.parametrize(
    ("name", "millions", "logical", "packed"),
    [
        ("Llama-3.2-1B", 5.061, 0.408, 0.671),
        ("Llama-3.2-3B", 13.143, 0.407, 0.723),
        ("Llama-2-7b-chat-hf", 28.685, 0.424, 0.813),
        ("Qwen2.5-1.5B-Instruct", 6.811, 0.439, 0.761),
        ("Llama-3.1-8B", None, None, None),
        ("Mistral-7B-v0.1", None, None, None),
        ("Qwen2.5-0.5B", None, None, None),
        ("Qwen2.5-7B", None, None, None),
    ],
)
def test_parameter_counts_by_formula(name, millions, logical, packed):
    """T = L (attention + MLP + 2 norms + gate) + (L + 1) downsampling + norm + up; the millions include alpha.

    In the percentages a packed weight counts half; of the linear layers only the head is not packed.
    """
    counts, packable, config = _count(name, "CAUSAL_LM")
    d, layers = config["hidden_size"], config["num_hidden_layers"]
    k, inner = d // 16, config["intermediate_size"] // 16
    head_dim = config.get("head_dim") or d // config["num_attention_heads"]
    q = max(1, k // head_dim) * head_dim
    block = 4 * k * q + 3 * k * inner + 2 * k + 1
    down = d * 16 + 16 * k + 2 * k
    assert counts.trainable == layers * block + (layers + 1) * down + k + k * d + d
    if millions is not None:
        paper = counts.trainable + d
        assert round(paper / 1e6, 3) == millions
        backbone = counts.total - counts.trainable
        assert 100 * paper / (backbone + paper) == pytest.approx(logical, abs=6e-4)
        assert 100 * paper / (backbone - packable / 2 + paper) == pytest.approx(packed, abs=6e-4)


def test_the_parameter_count_of_bert():
    """k = 48 beside 768: one head of 64, biases everywhere, layer norms; the pooler is the checkpoint's own."""
    counts, _, _ = _count("bert-base-uncased", "SEQ_CLS", 3)
    k, d, inner = 48, 768, 192
    block = 3 * (k * 64 + 64) + (64 * k + k) + (k * inner + inner) + (inner * k + k) + 4 * k + 1
    down = d * 16 + 16 * k + 2 * k
    assert counts.trainable == 12 * block + 13 * down + 2 * k + (k * d + d) + (d * 3 + 3)


@pytest.mark.parametrize(
    ("keys", "num_down", "down", "blocks"),
    [
        ({"downsample": "linear"}, 17, 2048 * 128 + 128, 16),
        ({"downsample": "lora"}, 17, 2048 * 16 + 16 * 128, 16),
        ({"downsample": "avgpool"}, 17, 0, 16),
        ({"side_layers": "every_4"}, 5, 2048 * 16 + 16 * 128 + 256, 4),
    ],
)
def test_parameters_added_by_options(keys, num_down, down, blocks):
    counts, _, _ = _count("Llama-3.2-1B", "CAUSAL_LM", **keys)
    block = 4 * 128 * 128 + 3 * 128 * 512 + 2 * 128 + 1
    assert counts.trainable == blocks * block + num_down * down + 128 + 128 * 2048 + 2048
