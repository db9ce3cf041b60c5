"""Compute the LoRA of a given rank nearest to an adapter, by peft's conversion, and what the rank loses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.core.errors import CheckError, ModelError, UserError
from utils.merging.weights import untie

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from torch import nn
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Converted:
    """A LoRA in memory."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    """Tensors as in adapter_model.safetensors, including fully trained modules."""
    kept: dict[str, Any]
    """Shares of the update's squared norm that the rank keeps: over all layers, and in the layer that lost most."""


def convert(model: PreTrainedModel, rank: int) -> Converted:
    """Compute the LoRA; alpha is the rank, so that its scale is 1.

    Raises:
        ModelError: peft cannot convert this adapter.
        UserError: A layer is smaller than the rank.
        CheckError: The adapter contains numbers that are not finite.
    """
    from peft.tuners.lora.conversion import convert_to_lora

    layers = dict(_find_layers(model))
    if getattr(model.peft_config["default"], "use_dora", False):
        raise ModelError("peft's conversion ignores the magnitudes of DoRA; merge it instead")
    try:
        config, tensors = convert_to_lora(model, rank)
    except TypeError as error:
        raise ModelError(f"peft converts no adapters of this kind into LoRA ({error}); merge it instead") from error
    except ValueError as error:
        if "rank" in str(error):
            raise UserError(f"--as_lora {rank}: is more than a layer's own size; choose a lower rank") from error
        raise ModelError(f"peft cannot convert this adapter into LoRA ({error}); merge it instead") from error
    tensors = {key: each for key, each in tensors.items() if ".lora_" in key}
    ranks = {name: int(tensors[f"{name}.lora_A.weight"].shape[0]) for name in layers}
    _name_layers(config, model, ranks)
    return Converted(config, tensors | dict(_list_whole(model)), _measure(layers, tensors))


def put_in_place(model: PreTrainedModel, converted: Converted) -> Iterator[str]:
    """Add updates to the base's own weights, for a model with disabled adapters.

    Yields after each step: `whole` with the full-rank updates, `converted` with the low-rank ones. The first must
    answer like the adapter: whatever is not a weight update is not converted.
    """
    import torch

    untie(model)
    layers = dict(_find_layers(model))
    own = {name: layer.get_base_layer().weight.detach().to("cpu", copy=True) for name, layer in layers.items()}
    with torch.no_grad():
        for step in ("whole", "converted"):
            for name, layer in layers.items():
                weight = layer.get_base_layer().weight
                weight.copy_(own[name])
                update = _find_update(layer) if step == "whole" else _multiply(layer, name, converted.tensors)
                weight.copy_((weight.float() + update.to(weight.device)).to(weight.dtype))
            yield step


def _find_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers with an update.

    Raises:
        ModelError: One of them is not a linear layer.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            if not isinstance(module.get_base_layer(), (nn.Linear, Conv1D)):
                raise ModelError(f"{name.removeprefix(_PREFIX)} is not a linear layer, and peft converts only those")
            yield name, module


def _name_layers(config: LoraConfig, model: nn.Module, ranks: dict[str, int]) -> None:
    """Name the layers and their ranks as briefly as possible, so that servers understand them."""
    most: int = max(set(ranks.values()), key=list(ranks.values()).count)
    made: Any = model.peft_config["default"]
    names = {name.removeprefix(_PREFIX): each for name, each in ranks.items()}
    short = {name.rpartition(".")[2] for name in names}
    paths = {name.removeprefix(_PREFIX) for name, _ in model.named_modules()}
    alike = {each for each in paths if each.rpartition(".")[2] in short}
    config.target_modules = short if alike == set(names) else set(names)
    config.r = config.lora_alpha = most
    config.rank_pattern = {name: each for name, each in names.items() if each != most}
    config.alpha_pattern = dict(config.rank_pattern)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.task_type, config.revision = made.task_type, made.revision


def _list_whole(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of fully trained modules, by the names under which peft saves them."""
    from peft import get_peft_model_state_dict
    from peft.utils import ModulesToSaveWrapper

    whole = [f"{name}." for name, each in model.named_modules() if isinstance(each, ModulesToSaveWrapper)]
    for key, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items():
        if key.startswith(tuple(whole)):
            yield key, tensor.contiguous()


def _measure(layers: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    import torch

    shares, total, lost = {}, 0.0, 0.0
    with torch.no_grad():
        for name, layer in layers.items():
            update = _find_update(layer)
            size = float(update.square().sum())
            missing = float((update - _multiply(layer, name, tensors).to(update.device)).square().sum())
            total, lost = total + size, lost + missing
            shares[name.removeprefix(_PREFIX)] = 1 - missing / size if size else 1.0
    if not math.isfinite(total):
        raise CheckError("the adapter holds numbers that are not finite: its training diverged")
    if not total:
        raise UserError("the adapter changes no weight, so there is nothing to convert; was it trained?")
    least = min(shares, key=shares.__getitem__)
    return {"share": 1 - lost / total, "least": shares[least], "layer": least}


def _find_update(layer: Any) -> torch.Tensor:
    """Compute an adapter's update of a layer's weight, in float32."""
    weight = layer.get_base_layer().weight.float()
    if not hasattr(layer, "miss_fn"):
        return layer.get_delta_weight("default").float()
    if layer.miss_fn == "bat":
        return layer.get_delta_weight("default", weight).float()
    return layer.get_delta_weight_miss("default", weight).float() - weight


def _multiply(layer: Any, name: str, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Multiply a layer's two matrices, in the layout of its weight."""
    from torch import nn

    first, second = (tensors[f"{name}.lora_{each}.weight"].float() for each in "AB")
    update = second @ first
    return update if isinstance(layer.get_base_layer(), nn.Linear) else update.T
