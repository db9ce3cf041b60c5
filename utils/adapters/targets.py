"""Which modules of a model a method adapts, trains in full, or leaves alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from utils.adapters.adapter import AttachContext, head_modules
from utils.config.sections.peft import AdapterSection
from utils.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

QUERY_AND_VALUE = {
    "distilbert": ["q_lin", "v_lin"],
    "albert": ["query", "value"],
    "modernbert": ["Wqkv"],
    "deberta-v2": ["query_proj", "value_proj"],
    "mistral": ["q_proj", "v_proj"],
}
"""Query and value, as in the LoRA paper, by model_type, for architectures that peft does not map."""


_NAMES = re.compile(r"[\w.]+(\s*,\s*[\w.]+)+")


def reject_empty(value: Any) -> Any:
    """Reject an empty list of modules; a pydantic validator."""
    if value in ([], ""):
        raise ValueError("is empty; name modules, or leave the key out")
    return value


def split_names(value: Any) -> Any:
    """Split `q_proj, v_proj`, as other tools write lists; a regular expression is returned unchanged."""
    is_list = isinstance(value, str) and _NAMES.fullmatch(value.strip())
    return [name.strip() for name in value.split(",")] if is_list else value


class ModulesSection(AdapterSection):
    """The `peft:` section of methods that can train further modules in full."""

    modules_to_save: list[str] | None = None
    """Modules trained in full and saved with the adapter; the task head is always included."""

    _check_named = field_validator("modules_to_save", mode="before")(reject_empty)


class TargetsSection(ModulesSection):
    """The `peft:` section of methods that adapt a selection of the model's modules."""

    target_modules: str | list[str] | None = None
    """Module names, a regular expression, or `all-linear`; null: as peft maps the architecture."""
    exclude_modules: str | list[str] | None = None
    """Module names or a regular expression to leave out."""

    _filled = field_validator("target_modules", mode="before")(reject_empty)
    _listed = field_validator("target_modules", "exclude_modules", mode="before")(split_names)


class LayersSection(TargetsSection):
    """The `peft:` section of low-rank methods, which can be limited to some layers."""

    ALIASES: ClassVar[dict[str, str]] = {
        "alpha": "lora_alpha", "dropout": "lora_dropout", "lora_target": "target_modules",
        "lora_target_modules": "target_modules", "lora_bias": "bias",
    }  # fmt: skip

    layers_to_transform: int | list[int] | None = None
    """Only these layers; null: all."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that are trained as well."""


def choose_targets(
    model: PreTrainedModel,
    written: str | list[str] | None,
    known: Collection[str],
    ours: Mapping[str, list[str]] = QUERY_AND_VALUE,
) -> str | list[str] | None:
    """Choose the modules to adapt: those `written`, or the default of the model's type.

    None stands for peft's own mapping, which covers the types in `known`; then come `ours`, then `all-linear`.
    """
    if written is not None:
        return written
    model_type = model.config.model_type
    return None if model_type in known else ours.get(model_type, "all-linear")


def list_layers(section: AdapterSection) -> list[int] | None:
    """Return the layers that the method is limited to, or None for all."""
    layers: int | list[int] | None = getattr(section, "layers_to_transform", None)
    return [layers] if isinstance(layers, int) else layers


def find_layer_conflict(section: AdapterSection) -> dict[str, str]:
    """Return, by key, what is wrong with `layers_to_transform` regardless of the model."""
    key, layers = "layers_to_transform", list_layers(section)
    targets, pattern = getattr(section, "target_modules", None), getattr(section, "layers_pattern", None)
    if layers is None:
        return {"layers_pattern": "needs layers_to_transform, which gives the numbers; leave it out"} if pattern else {}
    if not layers:
        return {key: "is empty; name layers from 0, or leave the key out for all"}
    if min(layers) < 0:
        return {key: f"layers are counted from 0, found {min(layers)}"}
    if isinstance(targets, str) and targets != "all-linear":
        return {key: "not beside a regular expression in target_modules; name the layers in the expression"}
    return {}


def choose_layers(
    model: PreTrainedModel, section: AdapterSection, targets: str | list[str] | None, head: list[str]
) -> dict[str, Any]:
    """Check `layers_to_transform` against the model, and return peft's settings for the layers and targets.

    peft silently ignores a layer that does not exist, does not apply the numbers to modules named in full, and rejects
    them with `all-linear`; so those modules are listed in full here, except for the head's.

    Raises:
        ConfigError: The model has no such layer.
    """
    layers = list_layers(section)
    if layers is None:
        return {"target_modules": targets}
    pattern = getattr(section, "layers_pattern", None)
    numbers = {name: _find_layer(name, pattern) for name, _ in model.named_modules()}
    known = sorted({number for number in numbers.values() if number is not None})
    if absent := sorted({*layers} - {*known}):
        raise ConfigError([Problem(missing_layers(absent, len(known)), "peft.layers_to_transform")])
    if targets == "all-linear":
        return {"target_modules": [name for name in list_linear(model, head) if numbers[name] in layers]}
    if isinstance(targets, list):
        targets = [name for name in targets if name not in numbers or numbers[name] in layers]
    return {"target_modules": targets, "layers_to_transform": layers}


def missing_layers(absent: Iterable[int], count: int) -> str:
    """Return a message about layers that a model with `count` layers lacks."""
    shown = ", ".join(map(str, absent))
    return f"no layer {shown}: the model has {count}, numbered from 0 to {count - 1}"


def warn_of_unadapted_layers(adapted: Any, section: AdapterSection) -> None:
    """Warn of requested layers that contain no adapted module."""
    layers = list_layers(section)
    if not layers:
        return
    pattern = getattr(section, "layers_pattern", None)
    reached = {_find_layer(name, pattern) for name in adapted.base_model.targeted_module_names}
    if idle := [str(layer) for layer in layers if layer not in reached]:
        logger.warning("peft.layers_to_transform: nothing is adapted in layer %s", ", ".join(idle))


def _find_layer(name: str, pattern: str | list[str] | None) -> int | None:
    """Parse the number of a module's layer as peft does: the first number in its name, or the one after a pattern."""
    behind = [pattern] if isinstance(pattern, str) else pattern or []
    patterns = [rf"(?:^|.*?\.){each}" for each in behind if each] or [r".*?\.[^.]*"]
    found = next((match for each in patterns if (match := re.match(rf"{each}\.(\d+)\.", f"{name}."))), None)
    return int(found[1]) if found else None


def list_head(model: PreTrainedModel, context: AttachContext) -> list[str]:
    """Return the modules of a classifier's new head, and those whose weights the checkpoint lacked."""
    return head_modules(model, context.new_modules) if context.has_new_head else []


def merge_modules_to_save(head: list[str], written: list[str] | None) -> list[str] | None:
    """Return the modules to train in full, the head first, or None if there are none."""
    return [*head, *(name for name in written or [] if name not in head)] or None


def list_linear(model: PreTrainedModel, head: list[str]) -> list[str]:
    """Return the full names of the body's linear layers, for tuners that cannot exclude modules from `all-linear`."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    return _list_body(model, head, lambda part: isinstance(part, (nn.Linear, Conv1D)) and part is not output)


def list_norms(model: PreTrainedModel, head: list[str]) -> list[str]:
    """Return the full names of the body's norms, recognized by class names ending in Norm."""
    return _list_body(model, head, lambda part: type(part).__name__.endswith("Norm"))


def _list_body(model: PreTrainedModel, head: list[str], is_wanted: Callable[[nn.Module], bool]) -> list[str]:
    outside = tuple(f"{name}." for name in head)
    return [name for name, part in model.named_modules() if is_wanted(part) and not f"{name}.".startswith(outside)]


def shape_of(layer: Any) -> tuple[int, int]:
    """Return the input and output sizes of a linear layer, quantized or not, or of a Conv1D."""
    return (layer.nx, layer.nf) if hasattr(layer, "nf") else (layer.in_features, layer.out_features)


def refuse_new_tokens(method: str, context: AttachContext) -> None:
    """Reject added tokens for a method that trains no embeddings.

    Raises:
        ConfigError: There are added tokens, whose embeddings would stay random.
    """
    if context.added_token_ids:
        message = f"cannot be used with peft.method: {method}, which trains no embeddings; remove it, or use lora"
        raise ConfigError([Problem(message, "model.extra_special_tokens")])
