"""Attaches LoRA with an initialization from weights or data, and keeps what it subtracts from the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft import initialize_lora_eva_weights
from peft.tuners import lora
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import (
    _maybe_include_all_linear_layers,
    cast_adapter_dtype,
    check_target_module_exists,
)
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import get_pattern_key
from torch import nn
from transformers.pytorch_utils import Conv1D

from utils.adapters.adapter import AttachContext
from utils.adapters.lora.data_passes import run_corda_pass, run_eva_pass, run_lora_ga_pass, store_at_layers
from utils.adapters.lora.init_cache import load_or_compute
from utils.adapters.lora.inits import kind_of, refuse_quantized, rewrites_base
from utils.adapters.lora.plain_saving import ADAPTER, LoraInitClassifier, LoraInitLanguageModel
from utils.adapters.targets import shape_of
from utils.core.errors import ConfigError, ModelError, Problem

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from utils.adapters.lora import Config


def attach_with_init(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext
) -> PreTrainedModel:
    """Attach LoRA with the section's initialization to a base with its head; target names are filled in.

    Raises:
        ConfigError: The initialization does not support this base or rank, or needs rows that are missing.
        ModelError: No linear layer matches, or a weight to be rewritten is shared with another module.
    """
    init = config.init_lora_weights
    if getattr(model, "is_quantized", False) and (why := refuse_quantized(init)):
        raise ConfigError([Problem(why, "peft.init_lora_weights")])
    _resolve_targets(model, peft_config)
    layers = list(_find_layers(model, peft_config))
    if not layers:
        raise ModelError(
            f"peft.target_modules: {config.target_modules} fits no linear layer whose weights {init} can read; name "
            "others, or use init_lora_weights: true"
        )
    _require_ranks(layers, peft_config, config)
    if rewrites_base(init):
        _refuse_shared(model, layers)
    peft_config.base_model_name_or_path = model.__dict__.get("name_or_path") or None
    kind: Any = LoraInitClassifier if context.has_new_head else LoraInitLanguageModel
    if not context.num_rows and next(model.parameters()).is_meta:
        return _attach_uncomputed(model, peft_config, kind, {sum(shape_of(layer)) for _, layer in layers})
    with _on_device(model, context):
        found = _run_data_pass(model, peft_config, config, context, [name for name, _ in layers])
        adapted = kind(model, peft_config)
        if found is not None:
            _set_eva_start(adapted, found)
        elif init == "loftq":
            _init_loftq(adapted, context.base_commit)
        if rewrites_base(init):
            adapted.keep_start()
    return adapted


def _run_data_pass(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor] | None:
    """Compute the starting point from rows, and return it for eva, which needs the adapter to be attached first."""
    looks: Any = {"eva": run_eva_pass, "corda": run_corda_pass, "lora_ga": run_lora_ga_pass}
    if (look := looks.get(kind_of(config.init_lora_weights))) is None:
        return None
    found = load_or_compute(lambda: look(model, peft_config, config, context, names), model, config, context, names)
    if look is run_eva_pass:
        return found
    store_at_layers(model, found, names)
    return None


def _attach_uncomputed(model: PreTrainedModel, peft_config: LoraConfig, kind: Any, sizes: set[int]) -> PreTrainedModel:
    """Attach to a base without weights, where parameters are only counted, skipping the initialization."""
    if peft_config.eva_config is not None and peft_config.eva_config.rho > 1 and len(sizes) > 1:
        raise ModelError("eva moves ranks from layer to layer by the rows that it looks at, and these differ in size")
    peft_config.eva_config = peft_config.corda_config = peft_config.lora_ga_config = None
    if peft_config.init_lora_weights != "mica":  # it freezes B, which changes the count
        peft_config.init_lora_weights = True
    return kind(model, peft_config)


def _resolve_targets(model: PreTrainedModel, peft_config: LoraConfig) -> None:
    """Resolve the target names that peft would find on attaching, since a pass over rows needs them earlier."""
    if peft_config.target_modules is None:
        names = LoraModel.target_module_mapping[model.config.model_type]
        peft_config.target_modules = names if isinstance(names, str) else set(names)
    _maybe_include_all_linear_layers(peft_config, model)


def _find_layers(model: PreTrainedModel, peft_config: LoraConfig) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and check_target_module_exists(peft_config, name):
            yield name, module


def _require_ranks(layers: list[tuple[str, nn.Module]], peft_config: LoraConfig, config: Config) -> None:
    """Check that every matrix has as many directions as the initialization needs."""
    kind = kind_of(config.init_lora_weights)
    factor = {"lora_ga": 2.0, "eva": config.eva_rho}.get(kind, 1.0)
    patterns = peft_config.rank_pattern or {}
    for name, layer in layers if kind != "orthogonal" else ():
        if kind == "olora" and isinstance(layer, Conv1D):
            message = f"olora does not fit {name}, which GPT-2 stores transposed, and peft does not; use pissa"
            raise ConfigError([Problem(message, "peft.init_lora_weights")])
        shape = shape_of(layer)
        most = shape[0] if kind == "eva" else min(shape)
        wanted = round(patterns.get(get_pattern_key(patterns.keys(), name), peft_config.r) * factor)
        if wanted > most:
            message = (
                f"{config.init_lora_weights} takes {wanted} directions from every matrix, and {name} has {most}; "
                f"set it to {int(most / factor)} or less, or leave the module out of target_modules"
            )
            raise ConfigError([Problem(message, "peft.lora_r")])


def _refuse_shared(model: PreTrainedModel, layers: list[tuple[str, nn.Module]]) -> None:
    """Reject a weight with two users, such as a tied output layer: rewriting it would change the other user too."""
    users = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for name, layer in layers:
        if users[id(layer.weight)] > 1:
            raise ModelError(
                f"peft.init_lora_weights: {name} shares its weight with another module, which must not be rewritten; "
                "leave it out of target_modules, or use eva or true"
            )


@contextmanager
def _on_device(model: PreTrainedModel, context: AttachContext) -> Iterator[None]:
    """Move the model to the training device for the duration of the context."""
    placed = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    moves = not placed and model.device.type == "cpu" and context.device != "cpu"
    if moves:
        model.to(context.device)
    try:
        yield
    finally:
        if moves:
            model.to("cpu")


def _set_eva_start(adapted: Any, found: dict[str, Any]) -> None:
    """Set A to what eva found, and cast the matrices that peft creates for new ranks back to float32."""
    prefixed = {f"base_model.model.{name}": matrix for name, matrix in found.items()}
    initialize_lora_eva_weights(adapted, eva_state_dict=prefixed)
    cast_adapter_dtype(adapted, ADAPTER)


@torch.no_grad()
def _init_loftq(adapted: Any, revision: str | None) -> None:
    """Initialize A and B of every 4-bit layer to the best low-rank approximation of the quantization error.

    This is one step of LoftQ (Li et al. 2023, arXiv:2310.08659), like peft's replace_lora_weights_loftq; further steps
    would requantize the base, and the adapter would fit no base that others have. The update's scale, which peft leaves
    to alpha, is divided out. The base's unquantized weights are read again, on the CPU.
    """
    kind = getattr(lora, "Linear4bit", ())  # peft defines it only if bitsandbytes is installed
    layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, kind)}
    if not layers:
        message = "loftq starts from the error of a 4-bit base; set model.quantization: nf4"
        raise ConfigError([Problem(message, "peft.init_lora_weights")])
    plain = adapted.get_base_model()
    whole = _load_unquantized(plain, revision)
    for name, layer in layers.items():
        weight = whole.get_submodule(name.removeprefix("base_model.model.")).weight
        base = layer.get_base_layer()
        lost = weight.to(base.weight.device).float() - dequantize_module_weight(base).float()
        # The best approximation of rank r (Eckart-Young), with the root of each singular value on either side.
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        rank, root = layer.r[ADAPTER], values[: layer.r[ADAPTER]].sqrt()
        matrices = {
            "lora_A": root[:, None] * right[:rank],
            "lora_B": left[:, :rank] * root / layer.scaling[ADAPTER],
        }
        for part, value in matrices.items():
            parameter = getattr(layer, part)[ADAPTER].weight
            parameter.data = value.to(parameter.device, parameter.dtype).contiguous()


def _load_unquantized(plain: Any, revision: str | None) -> Any:
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
