"""Checkpoints that are stored in few bits already: in which format, what reading it needs, what must not be packed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError
from utils.modeling.local_files import read_model_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from utils.config.sections.model import ModelSection

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
"""Modules that transformers imports to read a format, and the words for pip."""

_SKIP_KEYS = {"nf4": "llm_int8_skip_modules", "fp4": "llm_int8_skip_modules", "int8": "llm_int8_skip_modules",
              "hqq": "skip_modules", "compressed-tensors": "ignore"}  # fmt: skip
_USUAL_SKIP_KEY = "modules_to_not_convert"
_WITHOUT_SKIP = ("gptq", "mxfp4", "vptq", "spqr")
"""Formats that name what they hold, so that a new head is left alone by itself."""


def read_format(config: Mapping[str, Any]) -> str | None:
    """Name the format of a checkpoint by its config.json: `nf4`, `fp4`, `int8` (bitsandbytes), `gptq`, `awq` ...

    Args:
        config: The parsed file.

    Returns:
        None where the checkpoint is not quantized.
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
    """Tell how the base will be stored, as far as is known without loading anything.

    Returns:
        The type of `model.quantization`, else the checkpoint's own format where its config.json is on this machine;
        None: not quantized.
    """
    if section.quantization is not None:
        return section.quantization.type
    return read_format(read_model_config(section) or {})


def load_model_config(section: ModelSection) -> dict[str, Any]:
    """Load the checkpoint's config.json, from the hub if it is not here; as a plain mapping.

    Raises:
        ModelError: It cannot be had.
    """
    if (found := read_model_config(section)) is not None:
        return found
    from transformers import AutoConfig

    from utils.modeling.hub_errors import explain_loading
    from utils.modeling.source import loading_arguments

    with explain_loading(section):
        config = AutoConfig.from_pretrained(
            section.location, trust_remote_code=section.trust_remote_code, **loading_arguments(section)
        )
    return dict(vars(config))


def checkpoint_problem(section: ModelSection, config: Mapping[str, Any]) -> str | None:
    """Say why a quantized checkpoint cannot be loaded as the section asks; None: it can, or is not quantized.

    Args:
        section: The model section.
        config: The parsed config.json.
    """
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
    """Give the words for pip of what reading a quantized checkpoint needs and is not installed; None: nothing.

    Args:
        config: The parsed config.json.
    """
    modules, words = _NEEDS.get(read_format(config) or "", ((), ""))
    return words if any(importlib.util.find_spec(module) is None for module in modules) else None


def leave_unpacked(config: PreTrainedConfig, modules: list[str]) -> None:
    """Keep a classifier's new head from being packed: a packed layer cannot be drawn, nor trained.

    transformers packs every linear layer that the checkpoint's list leaves over, and the list was made for another
    head.

    Args:
        config: The model's config, which is changed.
        modules: As patterns, what stays as it is.
    """
    stored: Any = getattr(config, "quantization_config", None)
    kind = read_format({"quantization_config": stored})
    if kind is None or kind in _WITHOUT_SKIP:
        return
    key = _SKIP_KEYS.get(kind, _USUAL_SKIP_KEY)
    patterns = [f"re:{each}.*" for each in modules] if kind == "compressed-tensors" else modules
    config.quantization_config = {**stored, key: [*(stored.get(key) or ()), *patterns]}


def require_plain_head(model: PreTrainedModel) -> None:
    """See to it that what was to stay unpacked is not packed in the file: integers would be read as weights.

    Raises:
        ModelError: A layer outside the packed ones holds integers.
    """
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        if type(layer).__name__ == "Linear" and not parameter.is_floating_point():
            raise ModelError(
                f"{model.name_or_path} holds {name} packed ({parameter.dtype}), and it belongs to the head, which "
                "has to be trained; name the unquantized checkpoint, with model.quantization to store it in fewer bits"
            )


def require_trainable(model: PreTrainedModel) -> None:
    """See to it that an adapter can be trained on the format in which a base is stored.

    Raises:
        ModelError: transformers knows no gradient through it.
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
    """Turn the complaint that a format needs a GPU into a sentence.

    Raises:
        ModelError: It does, and there is none, or not the right one.
    """
    try:
        yield
    except RuntimeError as error:
        if stored is None or "GPU" not in str(error):
            raise
        line = str(error).split("\n")[0]
        raise ModelError(f"{section.name_or_path} is stored as {stored}, which cannot be read here: {line}") from error
