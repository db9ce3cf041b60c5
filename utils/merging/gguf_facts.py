"""Metadata of a GGUF file: architecture and hyperparameters, with the names of llama.cpp's converter.

Models that llama.cpp would compute differently from transformers are rejected: they would run, with other answers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.config.installed import is_installed
from utils.core.errors import ModelError, UserError
from utils.merging.gguf_tokenizer import GgufVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)

_FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
}
_SLIDING = {"gemma2": 2, "gemma3": 6}
"""Interval of layers with global attention, which llama.cpp knows by family."""
_WIDE_HEADS = {"gemma2": 46, "gemma3": 62}
"""Number of layers of the family's largest model, whose attention llama.cpp scales by its width."""
_ROPE = ("default", "linear", "yarn", "llama3")


@dataclass(frozen=True)
class GgufModel:
    """The model's data for a GGUF file besides its tensors."""

    arch: str
    config: PreTrainedConfig
    vocabulary: GgufVocabulary
    name: str


def require_gguf() -> None:
    """Check that the package gguf is installed.

    Raises:
        UserError: It is not.
    """
    if not is_installed("gguf"):
        raise UserError("--format gguf needs the package gguf, which is not installed; run pip install gguf")


def find_arch(config: PreTrainedConfig, name: str) -> str:
    """Return llama.cpp's name of the architecture.

    Raises:
        ModelError: llama.cpp would compute the model differently from transformers.
    """
    made_as = (config.architectures or ["a model without a name"])[0]
    if made_as not in _FAMILIES:
        known = ", ".join(each.removesuffix("ForCausalLM") for each in _FAMILIES)
        raise ModelError(f"{name}: {made_as} cannot be written as GGUF; supported families: {known}")
    arch, facts = _FAMILIES[made_as], config.to_dict()
    for problem in _find_problems(arch, facts):
        raise ModelError(f"{name}: {problem}, which a GGUF of {made_as} cannot represent")
    if arch == "llama" and (window := facts.get("sliding_window")):
        logger.warning(
            "%s: its sliding window of %d tokens is ignored, as by llama.cpp's converter: it attends to all tokens",
            name, window,
        )  # fmt: skip
    return arch


def _find_problems(arch: str, facts: dict[str, Any]) -> Iterator[str]:
    for rope in _list_ropes(facts).values():
        if rope.get("rope_type", "default") not in _ROPE:
            yield f"its rotary positions are stretched by {rope['rope_type']}"
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            yield "only a part of each head has rotary positions"
    activation = facts.get("hidden_activation") or facts.get("hidden_act")
    if activation not in (("gelu_pytorch_tanh", None) if arch.startswith("gemma") else ("silu",)):
        yield f"its activation is {activation}"
    if arch not in _SLIDING and facts.get("use_sliding_window"):
        yield "it attends to a sliding window"
    if arch in ("qwen3", *_SLIDING) and facts.get("attention_bias"):
        yield "its attention has biases"
    if arch in _SLIDING:
        yield from _find_gemma_problems(arch, facts)


def _find_gemma_problems(arch: str, facts: dict[str, Any]) -> Iterator[str]:
    every, layers = _SLIDING[arch], facts["num_hidden_layers"]
    expected = ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)]
    if facts.get("layer_types", expected) != expected:
        yield f"which layers attend to a sliding window is not the family's pattern of {every}"
    wide = facts["hidden_size"] // facts["num_attention_heads"]
    scale = wide if layers == _WIDE_HEADS[arch] else facts["head_dim"]
    if facts["query_pre_attn_scalar"] != scale:
        yield f"its attention is scaled by {facts['query_pre_attn_scalar']}, not by {scale}"
    if arch == "gemma3" and (facts.get("attn_logit_softcapping") or facts.get("final_logit_softcapping")):
        yield "its logits are capped"
    if arch == "gemma3" and facts.get("use_bidirectional_attention"):
        yield "it attends in both directions"


def write_facts(writer: Any, model: GgufModel, kind: str) -> None:
    """Write the hyperparameters."""
    import gguf

    facts = model.config.to_dict()
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(model.name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(kind, f"MOSTLY_{kind.upper()}")])
    writer.add_vocab_size(facts["vocab_size"])
    writer.add_block_count(facts["num_hidden_layers"])
    writer.add_context_length(facts["max_position_embeddings"])
    writer.add_embedding_length(facts["hidden_size"])
    writer.add_feed_forward_length(facts["intermediate_size"])
    writer.add_head_count(facts["num_attention_heads"])
    writer.add_head_count_kv(facts.get("num_key_value_heads") or facts["num_attention_heads"])
    writer.add_layer_norm_rms_eps(facts["rms_norm_eps"])
    head = _head_size(facts)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if model.arch == "llama":
        writer.add_rope_dimension_count(head)
    if model.arch in _SLIDING:
        writer.add_sliding_window(facts["sliding_window"])
    if model.arch == "gemma2":
        writer.add_attn_logit_softcapping(facts["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(facts["final_logit_softcapping"])
    _write_rope(writer, _list_ropes(facts), facts)


def _write_rope(writer: Any, ropes: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    import gguf

    rope = ropes.get("full_attention", {})
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    if "sliding_attention" in ropes:
        writer.add_rope_freq_base_swa(float(ropes["sliding_attention"]["rope_theta"]))
    if (kind := rope.get("rope_type", "default")) not in ("linear", "yarn"):
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType[kind.upper()])
    writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or facts["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(int(original))
        for name, add in (("attention_factor", "attn_factor"), ("beta_fast", "beta_fast"), ("beta_slow", "beta_slow")):
            if rope.get(name) is not None:
                getattr(writer, f"add_rope_scaling_yarn_{add}")(float(rope[name]))


def _list_ropes(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rotary parameters by kind of layer; most models have the same for all."""
    found = facts.get("rope_parameters") or {}
    return found if any(isinstance(each, dict) for each in found.values()) else {"full_attention": found}


def _head_size(facts: dict[str, Any]) -> int:
    return int(facts.get("head_dim") or facts["hidden_size"] // facts["num_attention_heads"])


def stretch_llama3(facts: dict[str, Any]) -> list[float] | None:
    """Compute the divisor of each rotary frequency in Llama 3.1's scaling; None without it."""
    rope = _list_ropes(facts).get("full_attention", {})
    if rope.get("rope_type") != "llama3":
        return None
    size, low, high = _head_size(facts), rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for index in range(0, size, 2):
        turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** (-index / size) / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return factors
