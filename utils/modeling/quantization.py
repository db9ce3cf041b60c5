"""Quantized loading with bitsandbytes: which weights are packed, and on which device."""

from __future__ import annotations

import copy
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError
from utils.modeling.quantized_checkpoint import checkpoint_problem, leave_unpacked, read_format

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedConfig

    from utils.config.sections.model import ModelSection

_USUAL_HEADS = ("score", "classifier", "pre_classifier", "classification_head", "head", "pooler")


def build_quantization(
    section: ModelSection, config: PreTrainedConfig, model_class: Any, has_head: bool
) -> BitsAndBytesConfig | None:
    """Build the quantization settings of `from_pretrained`, None when the section asks for none.

    A checkpoint that is quantized already keeps its own settings, in `config`.

    Of a classifier, the head and the pooler are left unquantized. transformers' own choice packs every head
    with a bias (BERT, RoBERTa, DeBERTa, ModernBERT): it protects the last parameter by its full name,
    `classifier.bias`, which names no module. Of a language model its choice is right: the output layer stays.

    Args:
        section: The model section.
        config: The model's config, labels set; the list of a quantized checkpoint gets the head added.
        model_class: The class to be loaded, None for code that the checkpoint ships.
        has_head: Whether it is a classifier.

    Raises:
        ModelError: A package is not installed, or the checkpoint is quantized already.
    """
    if problem := checkpoint_problem(section, vars(config)):
        raise ModelError(problem)
    wanted, is_packed = section.quantization, read_format(vars(config)) is not None
    skip = _head_modules(config, model_class) if has_head and (is_packed or wanted) else None
    if wanted is None:
        if skip is not None:
            leave_unpacked(config, skip)
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("model.quantization needs bitsandbytes; run pip install -r requirements.txt, or remove it")
    import torch
    from transformers import BitsAndBytesConfig

    if wanted.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.type,
        bnb_4bit_use_double_quant=wanted.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, wanted.compute_dtype),
        llm_int8_skip_modules=skip,
    )


def pack_for_sharding(quantization: BitsAndBytesConfig, section: ModelSection, config: PreTrainedConfig) -> Any:
    """Have 4-bit weights stored in the type of all others: FSDP and ZeRO-3 cut up tensors of one floating type only.

    Source: bitsandbytes' guide to FSDP-QLoRA, and peft's guides to FSDP and DeepSpeed.

    Args:
        quantization: From `build_quantization`; its storage type is set here.
        section: The model section.
        config: The model's config, whose type `dtype: auto` means.

    Returns:
        The type that the weights that are not packed have to be loaded in.
    """
    import torch

    named = config.dtype if section.dtype == "auto" else getattr(torch, section.dtype)
    dtype = named if isinstance(named, torch.dtype) else torch.bfloat16
    quantization.bnb_4bit_quant_storage = dtype
    return dtype


def choose_devices(section: ModelSection, config: PreTrainedConfig) -> str | dict[str, int | str] | None:
    """Give the device_map: the section's, this process's GPU for a quantized model, else None (CPU)."""
    import torch

    is_quantized = section.quantization is not None or read_format(vars(config)) is not None
    if section.device_map is not None or not is_quantized:
        return section.device_map
    return {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else {"": "cpu"}


def _head_modules(config: PreTrainedConfig, model_class: Any) -> list[str]:
    """Name, as anchored patterns, every module that is not the backbone, and the backbone's pooler."""
    if model_class is None:
        return [f"^{name}" for name in _USUAL_HEADS]
    import torch

    with torch.device("meta"):
        skeleton = model_class(copy.deepcopy(config))
    names = [name for name, _ in skeleton.named_children() if name != skeleton.base_model_prefix]
    names += [name for name, _ in skeleton.named_modules() if name.endswith(".pooler")]
    return [f"^{name}" for name in names]
