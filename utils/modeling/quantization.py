"""Quantized weights: quantized by bitsandbytes on loading, or already stored so in the checkpoint."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from utils.config.installed import is_installed
from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.modeling.source import load_config, read_model_config

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel


_NEEDS: dict[str, tuple[tuple[str, ...], str]] = {
    "gptq": (("gptqmodel", "optimum"), "gptqmodel optimum"),
    "awq": (("gptqmodel",), "gptqmodel"),
    "torchao": (("torchao",), "torchao"),
    "compressed-tensors": (("compressed_tensors",), "compressed-tensors"),
    "aqlm": (("aqlm",), "'aqlm[gpu,cpu]'"),
    "hqq": (("hqq",), "hqq"),
    "quanto": (("optimum",), "optimum-quanto"),
    "auto-round": (("auto_round",), "auto-round"),
    "eetq": (("kernels",), "kernels"),
    "mxfp4": (("kernels", "triton"), "kernels triton"),
    "fbgemm_fp8": (("fbgemm_gpu",), "fbgemm-gpu"),
    "vptq": (("vptq",), "vptq"),
    "spqr": (("spqr_quant",), "spqr-quant"),
    "nf4": (("bitsandbytes",), "bitsandbytes"),
    "fp4": (("bitsandbytes",), "bitsandbytes"),
    "int8": (("bitsandbytes",), "bitsandbytes"),
}
"""Modules that transformers imports to read a format, and the pip arguments to install them."""

_SKIP_KEYS = {"nf4": "llm_int8_skip_modules", "fp4": "llm_int8_skip_modules", "int8": "llm_int8_skip_modules",
              "hqq": "skip_modules", "compressed-tensors": "ignore"}  # fmt: skip
_USUAL_SKIP_KEY = "modules_to_not_convert"
_WITHOUT_SKIP = ("gptq", "mxfp4", "vptq", "spqr")
"""Formats that list their quantized layers, so that a new head is never quantized."""


def read_format(config: Mapping[str, Any]) -> str | None:
    """Return the format of a checkpoint by its config.json: `nf4`, `fp4`, `int8` (bitsandbytes), `gptq`, `awq` ...

    Returns None if the checkpoint is not quantized.
    """
    stored = config.get("quantization_config")
    if not isinstance(stored, Mapping) or not stored:
        return None
    if stored.get("load_in_8bit"):
        return "int8"
    if stored.get("load_in_4bit"):
        return str(stored.get("bnb_4bit_quant_type", "fp4"))
    return str(stored.get("quant_method", "unknown")).lower()


def find_storage(section: ModelSection) -> str | None:
    """Return how the base will be stored, as far as known without loading it; None: not quantized.

    It is the type of `model.quantization`, or the checkpoint's own format if its config.json is on this machine.
    """
    if section.quantization is not None:
        return section.quantization.type
    return read_format(read_model_config(section) or {})


def load_model_config(section: ModelSection) -> dict[str, Any]:
    """Load the checkpoint's config.json as a plain mapping, from the hub if necessary."""
    found = read_model_config(section)
    return found if found is not None else dict(vars(load_config(section)))


def checkpoint_problem(section: ModelSection, config: Mapping[str, Any]) -> str | None:
    """Explain why a quantized checkpoint cannot be loaded as the section asks, or return None if it can."""
    stored = read_format(config)
    if stored is None:
        return None
    name = section.name_or_path
    if section.quantization is not None:
        return (
            f"{name} is quantized already ({stored}); remove model.quantization, or name the unquantized checkpoint "
            f"to store it as {section.quantization.type}"
        )
    if words := missing_packages(config):
        return f"{name} is stored as {stored}, which needs more packages; run pip install {words}"
    return None


def missing_packages(config: Mapping[str, Any]) -> str | None:
    """Return the pip arguments for missing packages that reading a quantized checkpoint needs, or None."""
    modules, words = _NEEDS.get(read_format(config) or "", ((), ""))
    return None if all(map(is_installed, modules)) else words


def require_quantized(model: PreTrainedModel) -> None:
    """Check that a checkpoint's weights are quantized if its config.json says so.

    Raises:
        ModelError: They are not, as after weights were dequantized and saved with the old config.json.
    """
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit" and not hasattr(module.weight, "compress_statistics"):
            raise ModelError(
                f"{model.name_or_path}: its config.json says that its weights are quantized, and {name}.weight is not; "
                "remove quantization_config from config.json, or copy the checkpoint again"
            )


def exclude_from_quantization(config: PreTrainedConfig, modules: list[str]) -> None:
    """Exclude a classifier's new head, given as patterns, from quantization, so that it can be initialized and trained.

    transformers quantizes every linear layer that the checkpoint's list does not exclude, and the list was made for
    another head. `config` is changed.
    """
    stored: Any = getattr(config, "quantization_config", None)
    kind = read_format({"quantization_config": stored})
    if kind is None or kind in _WITHOUT_SKIP:
        return
    key = _SKIP_KEYS.get(kind, _USUAL_SKIP_KEY)
    patterns = [f"re:{each}.*" for each in modules] if kind == "compressed-tensors" else modules
    config.quantization_config = {**stored, key: [*(stored.get(key) or ()), *patterns]}


def require_plain_head(model: PreTrainedModel) -> None:
    """Check that the file has no quantized head, whose integers would be read as weights.

    Raises:
        ModelError: A layer that is not quantized holds integers.
    """
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        if type(layer).__name__ == "Linear" and not parameter.is_floating_point():
            raise ModelError(
                f"{model.name_or_path} holds {name} packed ({parameter.dtype}), and it belongs to the head, which "
                "has to be trained; name the unquantized checkpoint, with model.quantization to store it in fewer bits"
            )


def require_trainable(model: PreTrainedModel) -> None:
    """Check that an adapter can be trained on the base's format.

    Raises:
        ModelError: transformers cannot compute gradients through it.
    """
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is None or quantizer.is_trainable:
        return
    stored = read_format(model.config.to_dict()) or "this format"
    raise ModelError(
        f"{model.name_or_path} is stored as {stored}, which transformers can use but not train on; name the "
        "unquantized checkpoint, with model.quantization: nf4 if memory is short"
    )


@contextmanager
def explain_hardware(section: ModelSection, stored: str | None) -> Iterator[None]:
    """Turn the error that a format needs a GPU into a sentence.

    Raises:
        ModelError: There is no GPU, or an unsuitable one.
    """
    try:
        yield
    except RuntimeError as error:
        if stored is None or "GPU" not in str(error):
            raise
        line = str(error).split("\n")[0]
        raise ModelError(f"{section.name_or_path} is stored as {stored}, which cannot be read here: {line}") from error


_USUAL_HEADS = ("score", "classifier", "pre_classifier", "classification_head", "head", "pooler")


def build_quantization(
    section: ModelSection, config: PreTrainedConfig, model_class: Any, has_head: bool
) -> BitsAndBytesConfig | None:
    """Build the quantization settings of `from_pretrained`, or return None if the section asks for none.

    A checkpoint that is already quantized keeps its own settings in `config`, with the head added to its list of
    excluded modules. `model_class` is None for code that the checkpoint ships.

    A classifier's head and pooler are not quantized. transformers by default quantizes every head with a bias (BERT,
    RoBERTa, DeBERTa, ModernBERT): it excludes the last parameter by its full name, `classifier.bias`, which is not a
    module. For a language model its default is right: the output layer is excluded.

    Raises:
        ModelError: A package is not installed, or the checkpoint is already quantized.
    """
    if problem := checkpoint_problem(section, vars(config)):
        raise ModelError(problem)
    wanted, is_packed = section.quantization, read_format(vars(config)) is not None
    skip = _head_modules(config, model_class) if has_head and (is_packed or wanted) else None
    if wanted is None:
        if skip is not None:
            exclude_from_quantization(config, skip)
        return None
    if not is_installed("bitsandbytes"):
        raise ModelError("model.quantization needs bitsandbytes; run pip install bitsandbytes, or remove it")
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
    """Store 4-bit weights in the dtype of all others, since FSDP and ZeRO-3 shard only uniform floating-point tensors.

    Source: bitsandbytes' guide to FSDP-QLoRA, and peft's guides to FSDP and DeepSpeed. `quantization` is changed.

    Returns:
        The dtype in which the unquantized weights have to be loaded.
    """
    import torch

    named = config.dtype if section.dtype == "auto" else getattr(torch, section.dtype)
    dtype = named if isinstance(named, torch.dtype) else torch.bfloat16
    quantization.bnb_4bit_quant_storage = dtype
    return dtype


def choose_devices(section: ModelSection, config: PreTrainedConfig) -> str | dict[str, int | str] | None:
    """Return the device_map: the section's, this process's GPU for a quantized model, else None (CPU)."""
    import torch

    is_quantized = section.quantization is not None or read_format(vars(config)) is not None
    if section.device_map is not None or not is_quantized:
        return section.device_map
    return {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else {"": "cpu"}


def _head_modules(config: PreTrainedConfig, model_class: Any) -> list[str]:
    """Return anchored patterns of the modules outside the backbone, and of the backbone's pooler."""
    if model_class is None:
        return [f"^{name}" for name in _USUAL_HEADS]
    import torch

    with torch.device("meta"):
        skeleton = model_class(copy.deepcopy(config))
    names = [name for name, _ in skeleton.named_children() if name != skeleton.base_model_prefix]
    names += [name for name, _ in skeleton.named_modules() if name.endswith(".pooler")]
    return [f"^{name}" for name in names]
