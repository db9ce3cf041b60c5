"""How many tokens a model has positions for: read, stretched by rope scaling, held against a length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utils.config.sections.model import RopeScalingSection
from utils.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Families whose positions are a table of weights. Those of the second row count from behind the pad token's id.
_TABLES = {
    "albert", "bert", "biogpt", "codegen", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "gpt2",
    "gpt_bigcode", "gpt_neo", "openai-gpt", "opt",
}  # fmt: skip
_FROM_PAD = {"camembert", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
_NAMES = ("max_position_embeddings", "n_positions")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MOST_LAYERS = 2_000
_ORIGINAL = "original_max_position_embeddings"


def stretch_positions(config: PreTrainedConfig, rope: RopeScalingSection, name: str) -> None:
    """Write rope scaling into a model's config, and with it the positions that the model then has.

    Args:
        config: Changed in place.
        rope: What the run asks for.
        name: The model, for the sentence.

    Raises:
        ModelError: The model has no rotary positions, or different ones in different layers.
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
        # It counts from max_position_embeddings itself, which therefore stays.
        text.rope_parameters.pop("original_max_position_embeddings", None)
        text.max_position_embeddings = original
        return
    text.rope_parameters["original_max_position_embeddings"] = original
    if rope.rope_type == "linear":
        text.rope_parameters.pop("original_max_position_embeddings")
    text.max_position_embeddings = int(original * rope.factor)


def count_positions(config: Mapping[str, Any], rope: RopeScalingSection | None = None) -> int | None:
    """Count the tokens that a model has positions for; None where no limit is known.

    Args:
        config: The content of its config.json.
        rope: Rope scaling on top of it.
    """
    config = config.get("text_config") or config
    found: int | None = next((config[name] for name in _NAMES if isinstance(config.get(name), int)), None)
    if found is None or found < 1 or config.get("position_biased_input") is False:
        return None  # the last: DeBERTa, where positions are relative
    known = _rope_of(config)
    if rope is not None:
        return int((rope.original_max_position_embeddings or known.get(_ORIGINAL) or found) * rope.factor)
    if known.get("rope_type", known.get("type")) == "dynamic":
        return int(found * float(known.get("factor", 1)))
    pad = config.get("pad_token_id")
    return found - ((1 if pad is None else int(pad)) + 1 if config.get("model_type") in _FROM_PAD else 0)


def count_layers(config: Mapping[str, Any]) -> int | None:
    """Count a model's layers by the content of its config.json; None where it does not say."""
    config = config.get("text_config") or config
    return next((config[name] for name in _LAYER_COUNTS if isinstance(config.get(name), int)), None)


def layers_problem(config: Mapping[str, Any]) -> str | None:
    """Say that a config.json counts more layers than any model has: building them would take hours; None: it does not.

    Args:
        config: The content of its config.json.
    """
    count = count_layers(config) or 0
    if count <= _MOST_LAYERS:
        return None
    return f"its config.json counts {count:,} layers, more than any model has; it is damaged or made up"


def has_position_table(config: Mapping[str, Any]) -> bool:
    """Tell whether positions are a table of weights, beyond which a model cannot read at all."""
    return str((config.get("text_config") or config).get("model_type")) in _TABLES | _FROM_PAD


def length_problem(config: Mapping[str, Any], rope: RopeScalingSection | None, length: int) -> str | None:
    """Say what is wrong with rows of so many tokens; None when the model has positions for them.

    Args:
        config: The content of the model's config.json.
        rope: Rope scaling on top of it.
        length: Tokens of a row, those that an adapter puts before it counted.
    """
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


def _rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope if isinstance(rope, Mapping) else {}
