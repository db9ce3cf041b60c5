"""Attaches LoRA with an initialisation that looks at weights or data, and keeps what it takes out of the base."""

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
from utils.adapters.lora.data_passes import find_eva_start, look_at_gradients, look_at_inputs, store_at_layers
from utils.adapters.lora.init_cache import load_or_compute
from utils.adapters.lora.inits import kind_of, refuse_quantized, rewrites_base
from utils.adapters.lora.plain_saving import ADAPTER, LoraInitClassifier, LoraInitLanguageModel
from utils.adapters.targets import shape_of
from utils.core.errors import ConfigError, ModelError, Problem

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from utils.adapters.lora import Config


def attach_started(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext
) -> PreTrainedModel:
    """Attach LoRA to the base, with its head, by the section's initialisation; names of targets are filled in.

    Raises:
        ConfigError: The initialisation cannot be had with this base, this rank, or without rows.
        ModelError: No linear layer fits, or a weight that would be rewritten is shared with another module.
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
        found = _look_at_rows(model, peft_config, config, context, [name for name, _ in layers])
        adapted = kind(model, peft_config)
        if found is not None:
            _give_start(adapted, found)
        elif init == "loftq":
            _start_from_error(adapted, context.base_commit)
        if rewrites_base(init):
            adapted.keep_start()
    return adapted  # type: ignore[no-any-return]


def _look_at_rows(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor] | None:
    """Learn from rows what the initialisation starts from; only eva's start is given to an adapter that is there."""
    looks: Any = {"eva": find_eva_start, "corda": look_at_inputs, "lora_ga": look_at_gradients}
    if (look := looks.get(kind_of(config.init_lora_weights))) is None:
        return None
    found = load_or_compute(lambda: look(model, peft_config, config, context, names), model, config, context, names)
    if look is find_eva_start:
        return found
    store_at_layers(model, found, names)
    return None


def _attach_uncomputed(model: PreTrainedModel, peft_config: LoraConfig, kind: Any, sizes: set[int]) -> PreTrainedModel:
    """Attach on a base without weights, where parameters are only counted: what they start from is left out."""
    if peft_config.eva_config is not None and peft_config.eva_config.rho > 1 and len(sizes) > 1:
        raise ModelError("eva moves ranks from layer to layer by the rows that it looks at, and these differ in size")
    peft_config.eva_config = peft_config.corda_config = peft_config.lora_ga_config = None
    if peft_config.init_lora_weights != "mica":  # which freezes B
        peft_config.init_lora_weights = True
    return kind(model, peft_config)  # type: ignore[no-any-return]


def _resolve_targets(model: PreTrainedModel, peft_config: LoraConfig) -> None:
    """Fill in the names that peft would find when it attaches; what looks at data needs them before."""
    if peft_config.target_modules is None:
        names = LoraModel.target_module_mapping[model.config.model_type]
        peft_config.target_modules = names if isinstance(names, str) else set(names)
    _maybe_include_all_linear_layers(peft_config, model)


def _find_layers(model: PreTrainedModel, peft_config: LoraConfig) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and check_target_module_exists(peft_config, name):
            yield name, module


def _require_ranks(layers: list[tuple[str, nn.Module]], peft_config: LoraConfig, config: Config) -> None:
    """Check that every matrix has as many directions as the initialisation takes from it."""
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
    """Refuse a weight with two users, such as a tied output layer: the other one's would be rewritten too."""
    users = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for name, layer in layers:
        if users[id(layer.weight)] > 1:
            raise ModelError(
                f"peft.init_lora_weights: {name} shares its weight with another module, which must not be rewritten; "
                "leave it out of target_modules, or use eva or true"
            )


@contextmanager
def _on_device(model: PreTrainedModel, context: AttachContext) -> Iterator[None]:
    """Compute where training will run, and leave the model where it was."""
    placed = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    moves = not placed and model.device.type == "cpu" and context.device != "cpu"
    if moves:
        model.to(context.device)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if moves:
            model.to("cpu")  # type: ignore[arg-type]


def _give_start(adapted: Any, found: dict[str, Any]) -> None:
    """Set A to what eva found; where ranks change peft makes new matrices, in the base's precision: back to float32."""
    prefixed = {f"base_model.model.{name}": matrix for name, matrix in found.items()}
    initialize_lora_eva_weights(adapted, eva_state_dict=prefixed)
    cast_adapter_dtype(adapted, ADAPTER)


@torch.no_grad()
def _start_from_error(adapted: Any, revision: str | None) -> None:
    """Start A and B of every 4-bit layer as the best low-rank estimate of what quantization lost.

    One step of LoftQ (Li et al. 2023, arXiv:2310.08659), as peft's replace_lora_weights_loftq; more steps would
    quantize the base anew, and the adapter would fit no base that others have. The update's scale is divided out,
    which peft leaves to alpha. The base's own weights are read again, unquantized, on the CPU.
    """
    kind = getattr(lora, "Linear4bit", ())  # peft has it only where bitsandbytes is installed
    layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, kind)}
    if not layers:
        message = "loftq starts from the error of a 4-bit base; set model.quantization: nf4"
        raise ConfigError([Problem(message, "peft.init_lora_weights")])
    plain = adapted.get_base_model()
    whole = _load_whole(plain, revision)
    for name, layer in layers.items():
        weight = whole.get_submodule(name.removeprefix("base_model.model.")).weight
        base = layer.get_base_layer()
        lost = weight.to(base.weight.device).float() - dequantize_module_weight(base).float()
        # The best approximation of rank r (Eckart and Young), half of each singular value on either side.
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
