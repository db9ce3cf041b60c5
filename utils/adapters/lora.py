"""LoRA and its variants DoRA and rsLoRA, by peft.

Source: Hu et al. 2021, arXiv:2106.09685; DoRA: Liu et al. 2024, arXiv:2402.09353; rsLoRA: Kalajdzievski 2023,
arXiv:2312.03732.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from utils.adapters.adapter import AdapterSection, AttachContext, head_modules, keep_float32
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save
from utils.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Where peft has no mapping of its own: query and value, as in the LoRA paper.
_DEFAULT_TARGETS = {
    "distilbert": ["q_lin", "v_lin"],
    "albert": ["query", "value"],
    "modernbert": ["Wqkv"],
    "deberta-v2": ["query_proj", "value_proj"],
}


class Config(AdapterSection):
    """Low-rank adaptation: W + (lora_alpha / lora_r) * B @ A beside frozen weights."""

    ALIASES: ClassVar[dict[str, str]] = {
        "r": "lora_r", "rank": "lora_r", "lora_rank": "lora_r", "alpha": "lora_alpha", "dropout": "lora_dropout",
        "lora_target": "target_modules", "lora_target_modules": "target_modules", "lora_bias": "bias",
    }  # fmt: skip

    method: Literal["lora"] = "lora"
    lora_r: int = Field(8, ge=1)
    """Rank of the update."""
    lora_alpha: float = Field(16, gt=0)
    """The update is scaled by lora_alpha / lora_r (by lora_alpha / sqrt(lora_r) with use_rslora)."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the update's input."""
    target_modules: str | list[str] | None = None
    """Module names, a regular expression, or `all-linear`; null: query and value, as peft maps the architecture."""
    exclude_modules: str | list[str] | None = None
    """Module names or a regular expression to leave out."""
    layers_to_transform: int | list[int] | None = None
    """Only these layers; null: all."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained too."""
    modules_to_save: list[str] | None = None
    """Modules trained whole and saved with the adapter; the task head is always among them."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Ranks of single modules: {'model.layers.0.self_attn.q_proj': 16}."""
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    """Alphas of single modules."""
    init_lora_weights: bool | Literal["gaussian"] = True
    """true: B starts at zero (A Kaiming uniform); gaussian: A from a normal distribution; false: B random too."""
    use_dora: bool = False
    """Learn magnitude and direction apart (DoRA)."""
    use_rslora: bool = False
    """Scale by 1 / sqrt(lora_r), which keeps high ranks stable (rsLoRA)."""

    @field_validator("target_modules", "modules_to_save", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value in ([], ""):
            raise ValueError("is empty; name modules, or leave the key out")
        return value

    @field_validator("target_modules", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """Read `q_proj,v_proj` as other tools write lists; a regular expression holds no comma."""
        return [name.strip() for name in value.split(",")] if isinstance(value, str) and "," in value else value


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Wrap the model by peft; head and biases as configured become trainable, all else is frozen.

    Raises:
        ModelError: No module of the model matches target_modules, or modules_to_save fits one inside another.
    """
    from peft import LoraConfig, get_peft_model

    from utils.adapters.peft_layout import explain_targets, keep_unpacked

    head = head_modules(model, context.new_modules) if context.task_type == "SEQ_CLS" else []
    peft_config = LoraConfig(
        task_type=context.task_type,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=_target_modules(model, config),
        exclude_modules=_excluded(config, head),
        layers_to_transform=config.layers_to_transform,
        bias=config.bias,
        modules_to_save=[*head, *(name for name in config.modules_to_save or [] if name not in head)] or None,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        init_lora_weights=config.init_lora_weights,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        trainable_token_indices=_trainable_tokens(model, context),
        revision=context.base_commit,
    )
    with explain_targets(model, config.target_modules):
        _warn_of_idle_names(model, config)
        _refuse_nested(model, peft_config.modules_to_save or [])
        adapted: PreTrainedModel = get_peft_model(keep_unpacked(model), peft_config)
    keep_float32(adapted, context)
    return adapted


def _trainable_tokens(model: PreTrainedModel, context: AttachContext) -> dict[str, list[int]] | None:
    """Train the rows of new tokens: where they are read, and in a language model of its own head where written."""
    if not context.added_token_ids:
        return None
    embeddings = [model.get_input_embeddings()]
    head = model.get_output_embeddings() if context.task_type == "CAUSAL_LM" else None
    if head is not None and head.weight is not embeddings[0].weight:
        embeddings.append(head)
    names = {name for name, module in model.named_modules() if any(module is each for each in embeddings)}
    return {name.rsplit(".", 1)[-1]: list(context.added_token_ids) for name in sorted(names)}


def _target_modules(model: PreTrainedModel, config: Config) -> str | list[str] | None:
    if config.target_modules is not None:
        return config.target_modules
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    model_type = model.config.model_type
    return None if model_type in KNOWN else _DEFAULT_TARGETS.get(model_type, "all-linear")


def _warn_of_idle_names(model: PreTrainedModel, config: Config) -> None:
    """Name what is written but fits no module: peft passes over it in silence."""
    literal = {key: getattr(config, key) for key in ("target_modules", "exclude_modules", "modules_to_save")}
    written = {key: [re.escape(name) for name in names] for key, names in literal.items() if isinstance(names, list)}
    written |= {"rank_pattern": list(config.rank_pattern), "alpha_pattern": list(config.alpha_pattern)}
    modules = [name for name, _ in model.named_modules()]
    for key, patterns in written.items():
        idle = [each for each in patterns if not any(re.fullmatch(rf"(.*\.)?({each})", name) for name in modules)]
        if idle:
            names = ", ".join(each.replace("\\", "") for each in idle)
            logger.warning("peft.%s: the model has no module %s; it has no effect", key, names)


def _refuse_nested(model: PreTrainedModel, modules_to_save: list[str]) -> None:
    """Refuse names that peft, which compares endings, finds within each other: it cannot reload such an adapter."""
    for name in modules_to_save:
        found = [each for each, _ in model.named_modules() if each.endswith(name)]
        for outer in found:
            if inner := next((each for each in found if each.startswith(f"{outer}.")), None):
                raise ModelError(f"peft.modules_to_save: {name} fits {outer} and {inner} inside it; name one in full")


def _excluded(config: Config, head: list[str]) -> str | list[str] | None:
    """Keep LoRA off the task head, which is trained whole: a LoRA layer inside it would break saving."""
    if not head:
        return config.exclude_modules
    inside_head = rf"({'|'.join(map(re.escape, head))})(\..*)?"
    user = config.exclude_modules
    if user is None:
        return inside_head
    names = user if isinstance(user, str) else "|".join(rf"(.*\.)?{re.escape(name)}" for name in user)
    return rf"{inside_head}|{names}"
