"""Write a merged language model as a GGUF file like llama.cpp's own converter, and read it back.

Names of keys and tensors, and their order, are those of llama.cpp's convert_hf_to_gguf.py; models that it would write
but llama.cpp would compute differently are rejected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError
from utils.merging.gguf_facts import GgufModel, stretch_llama3, write_facts
from utils.merging.gguf_tokenizer import GgufVocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GGUF_TYPES = ("f16", "bf16", "f32", "q8_0")
_BLOCK = 32
"""Weights that share a scale in q8_0."""


def write_gguf(file: Path, model: GgufModel, folder: Path, kind: str) -> list[str]:
    """Write the model of a folder, one tensor at a time; return the tensors not stored as `kind`.

    `kind` is one of `GGUF_TYPES`. Norms and biases are float32, as llama.cpp requires; with q8_0, matrices whose row
    length is not a multiple of 32 are float16, and are returned.

    Raises:
        ModelError: The model has a tensor that the family lacks, or weights beyond float16's range.
    """
    import gguf

    writer = gguf.GGUFWriter(file, model.arch)
    try:
        write_facts(writer, model, kind)
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
    """Build a transformers model from a file, in the dtype of its config.

    Raises:
        ModelError: The file lacks a tensor, or has one of another shape.
    """
    import gguf
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    stored = {each.name: each for each in gguf.GGUFReader(file).tensors}
    with no_init_weights():
        loaded: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=model.config.dtype)
    loaded.tie_weights()
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
        raise ModelError(f"{file.name} holds tensors that the model lacks: {', '.join(sorted(left)[:3])}")
    return loaded


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


def _name_tensors(model: GgufModel) -> Any:
    """Return a function from a parameter's name to the tensor's."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model.arch.upper()], model.config.num_hidden_layers)

    def name(key: str) -> str:
        found: str | None = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"{model.name}: {key} has no place in a GGUF of {model.arch}")
        return found

    return name


def _list_tensors(model: GgufModel, folder: Path) -> Iterator[tuple[str, list[int], Any]]:
    """Yield each tensor's name in the file, its shape, and a function that loads it as float32."""
    import torch
    from safetensors import safe_open

    names = _name_tensors(model)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  not a dict
                if key == "lm_head.weight" and model.arch.startswith("gemma"):
                    raise ModelError(f"{model.name}: its output is not tied to its embeddings, as a GGUF of Gemma is")

                def load(file: Path = file, key: str = key) -> torch.Tensor:
                    with safe_open(file, framework="pt") as opened:
                        return _arrange(key, opened.get_tensor(key).float(), model)

                yield names(key), list(opened.get_slice(key).get_shape()), load
    if (factors := stretch_llama3(model.config.to_dict())) is not None:
        yield "rope_freqs.weight", [len(factors)], lambda: torch.tensor(factors)


def _arrange(key: str, tensor: torch.Tensor, model: GgufModel) -> torch.Tensor:
    """Convert a tensor to llama.cpp's layout: alternating rotary halves of Llama's heads, Gemma's norms plus 1."""
    if (heads := _count_heads(key, model)) is not None:
        return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    return tensor + 1 if model.arch.startswith("gemma") and key.endswith("norm.weight") else tensor


def _restore(key: str, tensor: torch.Tensor, model: GgufModel) -> torch.Tensor:
    """Undo `_arrange`."""
    if (heads := _count_heads(key, model)) is not None:
        return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    return tensor - 1 if model.arch.startswith("gemma") and key.endswith("norm.weight") else tensor


def _count_heads(key: str, model: GgufModel) -> int | None:
    """Return the number of heads of a tensor with alternating rotary halves in the file; None for other tensors."""
    layer, config = key.split(".")[-2], model.config
    if model.arch != "llama" or layer not in ("q_proj", "k_proj"):
        return None
    return int(config.num_attention_heads if layer == "q_proj" else config.num_key_value_heads)


def _choose_type(name: str, shape: list[int], kind: str) -> Any:
    import gguf

    types = gguf.GGMLQuantizationType
    if len(shape) <= 1 or name.endswith("_norm.weight"):
        return types.F32
    if kind == "q8_0" and shape[-1] % _BLOCK:
        return types.F16
    return types[kind.upper()]


def _announce(writer: Any, name: str, shape: list[int], stored: Any) -> None:
    """Announce a tensor to the writer."""
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
