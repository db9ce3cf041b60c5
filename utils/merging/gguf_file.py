"""Writes a merged language model as a GGUF file, as llama.cpp's own converter does, and reads it back.

Names of keys and tensors, and their order, are those of llama.cpp's convert_hf_to_gguf.py; what it would write without
llama.cpp computing the same is refused.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError, UserError
from utils.merging.gguf_tokenizer import GgufVocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

GGUF_TYPES = ("f16", "bf16", "f32", "q8_0")
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
"""Every how many layers one attends to all tokens, which llama.cpp knows by the family."""
_WIDE_HEADS = {"gemma2": 46, "gemma3": 62}
"""Layers of the family's largest model, whose attention llama.cpp scales by its width."""
_ROPE = ("default", "linear", "yarn", "llama3")
_BLOCK = 32
"""Weights that share a scale in q8_0."""


@dataclass(frozen=True)
class GgufModel:
    """What is written beside the tensors."""

    arch: str
    config: PreTrainedConfig
    vocabulary: GgufVocabulary
    name: str


def require_gguf() -> None:
    """See to it that the package is here.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError("--format gguf needs the package gguf, which is not installed; run pip install gguf")


def find_arch(config: PreTrainedConfig, name: str) -> str:
    """Name the architecture as llama.cpp does.

    Raises:
        ModelError: llama.cpp would compute something else than transformers does.
    """
    made_as = (config.architectures or ["a model without a name"])[0]
    if made_as not in _FAMILIES:
        known = ", ".join(each.removesuffix("ForCausalLM") for each in _FAMILIES)
        raise ModelError(f"{name}: {made_as} is not written as GGUF; the families that are: {known}")
    arch, facts = _FAMILIES[made_as], config.to_dict()
    for problem in _find_problems(arch, facts):
        raise ModelError(f"{name}: {problem}, which a GGUF of {made_as} cannot say")
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


def write_gguf(file: Path, model: GgufModel, folder: Path, kind: str) -> list[str]:
    """Write the model of a folder, one tensor at a time; gives the tensors that are stored otherwise than `kind`.

    `kind` is one of `GGUF_TYPES`. Norms and biases are float32, and so llama.cpp wants them; a matrix whose rows are no
    multiple of 32 long is float16 in q8_0, and is named.

    Raises:
        ModelError: The model holds a tensor that the family has not, or float16 cannot hold its weights.
    """
    import gguf

    writer = gguf.GGUFWriter(file, model.arch)
    try:
        _write_facts(writer, model, kind)
        _write_vocabulary(writer, model.vocabulary)
        others, plans = [], []
        for name, shape, load in _list_tensors(model, folder):
            stored = _choose_type(name, shape, kind)
            if stored is gguf.GGMLQuantizationType.F16 and kind == "q8_0":
                others.append(name)
            plans.append((name, shape, stored, load))
            _announce(writer, name, shape, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, _, stored, load in plans:
            writer.write_tensor_data(_store(load(), stored, name))
    finally:
        writer.close()
    return others


def read_gguf(file: Path, model: GgufModel) -> PreTrainedModel:
    """Build the model of transformers from what a file holds, in float32.

    Raises:
        ModelError: The file lacks a tensor, or holds one of another shape.
    """
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    stored = {each.name: each for each in gguf.GGUFReader(file).tensors}
    loaded: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    loaded.eval()
    names = _name_tensors(model)
    with torch.no_grad():
        for key, parameter in loaded.named_parameters():
            tensor = stored.pop(names(key), None)
            if tensor is None:
                raise ModelError(f"{file.name} lacks {names(key)} ({key})")
            values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
            shape = [int(each) for each in reversed(tensor.shape)]
            parameter.copy_(_restore(key, values.reshape(shape), model))
    if left := set(stored) - {"rope_freqs.weight"}:
        raise ModelError(f"{file.name} holds tensors that the model has not: {', '.join(sorted(left)[:3])}")
    return loaded


def _write_facts(writer: Any, model: GgufModel, kind: str) -> None:
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


def _write_vocabulary(writer: Any, vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(bool(vocabulary.add_space_prefix))
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for role, id_ in vocabulary.special.items():
        getattr(writer, f"add_{role}_token_id")(id_)
    for role, adds in vocabulary.adds.items():
        getattr(writer, f"add_add_{role}_token")(adds)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _list_ropes(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the rotary positions by the kind of layer; most models have one for all."""
    found = facts.get("rope_parameters") or {}
    return found if any(isinstance(each, dict) for each in found.values()) else {"full_attention": found}


def _head_size(facts: dict[str, Any]) -> int:
    return int(facts.get("head_dim") or facts["hidden_size"] // facts["num_attention_heads"])


def _name_tensors(model: GgufModel) -> Any:
    """Give a function from a parameter's name to the tensor's."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model.arch.upper()], model.config.num_hidden_layers)

    def name(key: str) -> str:
        found: str | None = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"{model.name}: {key} has no place in a GGUF of {model.arch}")
        return found

    return name


def _list_tensors(model: GgufModel, folder: Path) -> Iterator[tuple[str, list[int], Any]]:
    """Give each tensor's name in the file, its shape, and a function that loads it as float32."""
    import torch
    from safetensors import safe_open

    names = _name_tensors(model)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  no dict
                if key == "lm_head.weight" and model.arch.startswith("gemma"):
                    raise ModelError(f"{model.name}: its output is not tied to its embeddings, as a GGUF of Gemma is")

                def load(file: Path = file, key: str = key) -> torch.Tensor:
                    with safe_open(file, framework="pt") as opened:
                        return _arrange(key, opened.get_tensor(key).float(), model)

                yield names(key), list(opened.get_slice(key).get_shape()), load
    if (factors := _stretch_llama3(model.config.to_dict())) is not None:
        yield "rope_freqs.weight", [len(factors)], lambda: torch.tensor(factors)


def _arrange(key: str, tensor: torch.Tensor, model: GgufModel) -> torch.Tensor:
    """Lay a tensor out as llama.cpp wants it: rotary halves of Llama's heads alternate, Gemma's norms hold their 1."""
    if (heads := _count_heads(key, model)) is not None:
        return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    return tensor + 1 if model.arch.startswith("gemma") and key.endswith("norm.weight") else tensor


def _restore(key: str, tensor: torch.Tensor, model: GgufModel) -> torch.Tensor:
    """Undo `_arrange`."""
    if (heads := _count_heads(key, model)) is not None:
        return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    return tensor - 1 if model.arch.startswith("gemma") and key.endswith("norm.weight") else tensor


def _count_heads(key: str, model: GgufModel) -> int | None:
    """Count the heads of a tensor whose rotary halves alternate in the file; None: those of others stay."""
    layer, config = key.split(".")[-2], model.config
    if model.arch != "llama" or layer not in ("q_proj", "k_proj"):
        return None
    return int(config.num_attention_heads if layer == "q_proj" else config.num_key_value_heads)


def _stretch_llama3(facts: dict[str, Any]) -> list[float] | None:
    """Compute by how much each rotary frequency is divided, as Llama 3.1 stretches them; None: it does not."""
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


def _choose_type(name: str, shape: list[int], kind: str) -> Any:
    import gguf

    types = gguf.GGMLQuantizationType
    if len(shape) <= 1 or name.endswith("_norm.weight"):
        return types.F32
    if kind == "q8_0" and shape[-1] % _BLOCK:
        return types.F16
    return types[kind.upper()]


def _announce(writer: Any, name: str, shape: list[int], stored: Any) -> None:
    """Tell the writer of a tensor that will come."""
    import gguf
    import numpy as np

    count, types = math.prod(shape), gguf.GGMLQuantizationType
    plain = {types.F32: np.float32, types.F16: np.float16}.get(stored)
    if plain is not None:
        writer.add_tensor_info(name, shape, np.dtype(plain), count * np.dtype(plain).itemsize, raw_dtype=stored)
        return
    packed = gguf.quant_shape_to_byte_shape(shape, stored)
    writer.add_tensor_info(name, packed, np.dtype(np.uint8), math.prod(packed), raw_dtype=stored)


def _store(tensor: torch.Tensor, stored: Any, name: str) -> Any:
    import gguf
    import numpy as np

    with np.errstate(over="ignore"):
        data = gguf.quants.quantize(tensor.numpy(), stored)
    if stored is gguf.GGMLQuantizationType.F16 and not np.isfinite(data).all():
        raise ModelError(f"{name} holds weights that float16 cannot; write it as bf16 or f32 by --gguf_type")
    return data
