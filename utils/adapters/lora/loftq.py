"""LoftQ on a 4-bit base: A and B start as the best low-rank estimate of what quantization lost.

One step of Li et al. 2023, arXiv:2310.08659, as peft's replace_lora_weights_loftq; more steps would quantize the base
anew, and the adapter would fit no base that others have. The update's scale is divided out, which peft leaves to alpha.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear4bit
from peft.utils.integrations import dequantize_module_weight

from utils.adapters.lora.plain_saving import ADAPTER
from utils.core.errors import ConfigError, Problem


@torch.no_grad()
def start_from_error(adapted: Any, revision: str | None) -> None:
    """Set A and B of every 4-bit layer; the base's own weights are read again, unquantized, on the CPU.

    Args:
        adapted: The model with LoRA attached.
        revision: Commit of the base on the hub.

    Raises:
        ConfigError: There is no 4-bit layer.
    """
    layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, Linear4bit)}
    if not layers:
        message = "loftq starts from the error of a 4-bit base; set model.quantization: nf4"
        raise ConfigError([Problem(message, "peft.init_lora_weights")])
    plain = adapted.get_base_model()
    whole = _load_whole(plain, revision)
    for name, layer in layers.items():
        weight = whole.get_submodule(name.removeprefix("base_model.model.")).weight
        base = layer.get_base_layer()
        lost = weight.to(base.weight.device).float() - dequantize_module_weight(base).float()
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        rank, root = layer.r[ADAPTER], values[: layer.r[ADAPTER]].sqrt()
        matrices = {
            "lora_A": root[:, None] * right[:rank],
            "lora_B": left[:, :rank] * root / layer.scaling[ADAPTER],
        }
        for part, value in matrices.items():
            parameter = getattr(layer, part)[ADAPTER].weight
            parameter.data = value.to(parameter.device, parameter.dtype).contiguous()


def _load_whole(plain: Any, revision: str | None) -> Any:
    kind = type(plain)
    config = type(plain.config).from_dict({**plain.config.to_dict(), "quantization_config": None})
    config.__dict__.pop("quantization_config", None)
    return kind.from_pretrained(
        plain.name_or_path,
        config=config,
        revision=revision or "main",
        dtype="auto",
        use_safetensors=True,
        trust_remote_code=False,
    )
