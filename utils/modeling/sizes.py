"""A model's size: its positions, extended by rope scaling, its layers and its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.config.sections.model import RopeScalingSection
from utils.core.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# Families whose positions are a table of weights; those in the second set count from after the pad token's id.
_TABLES = {
    "albert", "bert", "biogpt", "codegen", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "gpt2",
    "gpt_bigcode", "gpt_neo", "openai-gpt", "opt",
}  # fmt: skip
_FROM_PAD = {"camembert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
_NAMES = ("max_position_embeddings", "n_positions")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MAX_LAYERS = 2_000
_FROZEN_COPY = ".original_module."  # peft keeps the replaced head beside the trained one
_ORIGINAL = "original_max_position_embeddings"


def apply_rope_scaling(config: PreTrainedConfig, rope: RopeScalingSection, name: str) -> None:
    """Apply rope scaling to a model's config, including the number of positions.

    Raises:
        ModelError: The model `name` has no rotary positions, or different ones in different layers.
    """
    text = config.get_text_config()
    known = getattr(text, "rope_parameters", None)
    if not isinstance(known, dict) or "rope_theta" not in known:
        kind = "has different rotary positions in different layers" if known else "has no rotary positions"
        raise ModelError(f"model.rope_scaling: {name} ({text.model_type}) {kind}; leave the key out")
    original = rope.original_max_position_embeddings or int(
        known.get("original_max_position_embeddings") or text.max_position_embeddings
    )
    given = {key: value for key, value in rope.model_dump().items() if value is not None}
    kept = {key: known[key] for key in ("rope_theta", "partial_rotary_factor") if key in known}
    text.rope_parameters = {**kept, **given}
    if rope.rope_type == "dynamic":
        # It scales from max_position_embeddings itself, which therefore stays.
        text.rope_parameters.pop("original_max_position_embeddings", None)
        text.max_position_embeddings = original
        return
    text.rope_parameters["original_max_position_embeddings"] = original
    if rope.rope_type == "linear":
        text.rope_parameters.pop("original_max_position_embeddings")
    text.max_position_embeddings = int(original * rope.factor)


def count_positions(config: Mapping[str, Any], rope: RopeScalingSection | None = None) -> int | None:
    """Return the number of positions in a config.json, extended by `rope`; None: no known limit."""
    config = _text_config(config)
    found = _first_count(config, _NAMES)
    if found is None or found < 1 or config.get("position_biased_input") is False:
        return None  # the last condition: DeBERTa, whose positions are relative
    known = _rope_of(config)
    if rope is not None:
        return int((rope.original_max_position_embeddings or _first_count(known, (_ORIGINAL,)) or found) * rope.factor)
    if known.get("rope_type", known.get("type")) == "dynamic":
        factor = known.get("factor")
        return int(found * factor) if isinstance(factor, int | float) and math.isfinite(factor) else found
    if str(config.get("model_type")) not in _FROM_PAD:
        return found
    pad = _first_count(config, ("pad_token_id",))
    return found - (1 if pad is None else pad) - 1


def count_text_positions(model: PreTrainedModel) -> int | None:
    """Return the number of text tokens that a model can hold, excluding an adapter's virtual tokens.

    Returns None if the model has no known limit.
    """
    found = count_positions(model.config.to_dict())
    if found is None or not is_prompt_learning(model):
        return found
    return found - int(model.active_peft_config.num_virtual_tokens)


def is_prompt_learning(model: PreTrainedModel) -> bool:
    """Return whether an adapter prepends tokens to the text, which shifts positions after padding."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def count_layers(config: Mapping[str, Any]) -> int | None:
    """Return a model's number of layers according to its config.json, or None."""
    return _first_count(_text_config(config), _LAYER_COUNTS)


def counts_problem(config: Mapping[str, Any]) -> str | None:
    """Describe a number of layers or positions that no model has (many layers would take hours to build); else None."""
    layers, positions = count_layers(config), _first_count(_text_config(config), _NAMES)
    if layers is not None and not 1 <= layers <= _MAX_LAYERS:
        wrong = f"{layers:,} layers"
    elif positions is not None and positions < 1:
        wrong = f"{positions:,} positions"
    else:
        return None
    return f"its config.json counts {wrong}, which no model has; it is damaged or made up"


def has_position_table(config: Mapping[str, Any]) -> bool:
    """Return whether positions are a table of weights, beyond which a model cannot read at all."""
    return str(_text_config(config).get("model_type")) in _TABLES | _FROM_PAD


def length_problem(config: Mapping[str, Any], rope: RopeScalingSection | None, length: int) -> str | None:
    """Explain why rows of `length` tokens, including virtual ones, exceed the model's positions, or return None."""
    positions = count_positions(config, rope)
    if positions is None or length <= positions:
        return None
    if has_position_table(config):
        return f"{length} tokens are more than the model has positions for ({positions}); use {positions} at most"
    if rope is not None:
        return f"{length} tokens are more than model.rope_scaling makes room for ({positions}); raise its factor"
    factor = -(-length // positions)
    return (
        f"{length} tokens are more than the model was trained with ({positions}); use {positions} at most, or stretch "
        f"its positions by model.rope_scaling: {{rope_type: yarn, factor: {factor}}}"
    )


# A config.json may hold anything under any key; transformers refuses a wrong type once it builds the model.
def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and inner else config


def _first_count(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the whole number under the first of `names` that holds one."""
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)


def _rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope if isinstance(rope, Mapping) else {}


@dataclass(frozen=True)
class ParameterCounts:
    """Number of parameters that a model has and trains."""

    trainable: int
    """Number of logical elements that are trained."""
    total: int
    """Number of logical elements; tied weights count once, a 4-bit weight by its unpacked shape."""
    trainable_percent: float
    """100 * trainable / total, 0 to 100."""
    trainable_percent_packed: float
    """The same with every tensor counted as stored: a packed 4-bit weight has half its logical size."""


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of a plain, quantized or adapted model, also on the meta device.

    The frozen copy of a head that peft keeps for `modules_to_save` is not counted.
    """
    trainable = total = packed_trainable = packed_total = 0
    for name, parameter in model.named_parameters():
        if _FROZEN_COPY in name:
            continue
        logical, packed = _logical_size(parameter), _packed_size(parameter)
        total += logical
        packed_total += packed
        if parameter.requires_grad:
            trainable += logical
            packed_trainable += packed
    return ParameterCounts(
        trainable=trainable,
        total=total,
        trainable_percent=100 * trainable / max(total, 1),
        trainable_percent_packed=100 * packed_trainable / max(packed_total, 1),
    )


def _logical_size(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def _packed_size(parameter: nn.Parameter) -> int:
    """Return the number of elements as stored, or of bytes for a packed weight."""
    is_packed = getattr(parameter, "quant_state", None) is not None
    return int(parameter.numel() * parameter.element_size()) if is_packed else int(parameter.numel())
