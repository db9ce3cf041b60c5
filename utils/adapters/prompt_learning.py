"""Common code of prefix-tuning, prompt-tuning and p-tuning: virtual tokens in front of a frozen model's text."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from utils.adapters import peft_layout
from utils.adapters.adapter import AttachContext, LoadBase, keep_float32
from utils.adapters.peft_layout import save as save
from utils.adapters.targets import ModulesSection, list_head, merge_modules_to_save, refuse_new_tokens
from utils.adapters.training_hooks import TrainingHooks
from utils.config.sections.peft import Limits
from utils.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PACKING = (
    "its virtual tokens are put before a row, not before each document, and the documents would see each other; "
    "leave packing and padding_free out, or use lora"
)
_MERGE = "virtual tokens do not change the base's weights; use the adapter on its base, or train by lora"
_ALBERT = "its embeddings are narrower than its layers, which peft does not expect; use lora, adalora or ia3"
_SHARDING = (
    "its virtual tokens belong to no layer, so their weights are not gathered with one, and its checkpoints could "
    "not be resumed; use lora, or DDP or ZeRO-2"
)
LIMITS = Limits(packing=_PACKING, sharding=_SHARDING, merge=_MERGE, model_types={"albert": _ALBERT})


class PromptSection(ModulesSection):
    """The `peft:` section of the three methods, with their common keys."""

    LIMITS: ClassVar[Limits] = LIMITS

    num_virtual_tokens: int = Field(20, ge=1)
    """Number of virtual tokens in front of every text; they take up positions of the model."""

    @property
    def virtual_tokens(self) -> int:
        """Number of the model's positions that the method uses."""
        return self.num_virtual_tokens


def training_hooks() -> TrainingHooks:
    """Return hooks that make a checkpoint hold the network that generates the prompts."""
    return _PromptHooks()


class _PromptHooks(TrainingHooks):
    keeps_state = True


def attach_prompt(
    model: PreTrainedModel, config: PromptSection, context: AttachContext, config_class: Any, **fields: Any
) -> PreTrainedModel:
    """Prepend virtual tokens to the plain model; they and a new head become trainable, all other weights are frozen.

    `config_class` is peft's configuration class of the method, and `fields` are its specific fields.
    """
    from peft import get_peft_model

    refuse_new_tokens(config.method, context)
    # peft matches suffixes in its own modules too: `head` would match p-tuning's `mlp_head`
    head = [f"base_model.{name}" if name == "head" else name for name in list_head(model, context)]
    whole = merge_modules_to_save(head, config.modules_to_save)
    peft_config = config_class(
        task_type=context.task_type,
        num_virtual_tokens=config.num_virtual_tokens,
        modules_to_save=whole,
        revision=context.base_commit,
        **describe_shape(model),
        **fields,
    )
    adapted: Any = get_peft_model(peft_layout.preserve_quantized(model), peft_config)
    _use_own_embeddings(adapted)
    keep_float32(adapted, context)
    return _order_padding(adapted)


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load saved virtual tokens onto a freshly loaded base."""
    adapted: Any = peft_layout.load(folder, load_base)
    _use_own_embeddings(adapted)
    return _order_padding(adapted)


def describe_shape(model: PreTrainedModel) -> dict[str, int]:
    """Return sizes that peft does not find in every configuration, such as DistilBERT's `dim`."""
    config = model.config.get_text_config()
    return {
        "token_dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_transformer_submodules": 1,
    }


def require_cache(model: PreTrainedModel) -> None:
    """Check that the model accepts external keys and values, of which a prefix consists.

    Raises:
        ModelError: It does not.
    """
    body = getattr(model, model.base_model_prefix, model)
    if not any("past_key_values" in inspect.signature(each.forward).parameters for each in (model, body)):
        raise ModelError(
            f"peft.method: prefix-tuning not on {model.config.model_type}, whose attention takes no keys and values "
            "from outside; use p-tuning or prompt-tuning, or lora"
        )


def _use_own_embeddings(adapted: Any) -> None:
    """Use the model's own embedding layer, where peft takes the first matrix with a row per token."""
    adapted.word_embeddings = adapted.get_base_model().get_input_embeddings()


def _order_padding(adapted: Any) -> Any:
    """Make a decoder's classifier move padding to where it does not affect the output.

    With virtual tokens in the embeddings, such a classifier reads the last position, so padding goes to the front. With
    a prefix in the cache it finds the last token itself, so padding goes to the end.
    """
    from peft import PeftModelForSequenceClassification

    plain = adapted.get_base_model()
    if isinstance(adapted, PeftModelForSequenceClassification) and hasattr(plain, "score"):
        plain.register_forward_pre_hook(_move_padding, with_kwargs=True)
    return adapted


def _move_padding(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import torch

    mask, embeds = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
    ids: Any = kwargs.get("input_ids")
    if mask is None or (embeds is None and ids is None):
        return args, kwargs
    if embeds is not None:
        order = torch.argsort((mask != 0).int(), dim=1, stable=True)
        mask = mask.gather(1, order)
        moved: dict[str, Any] = {"inputs_embeds": _gather_rows(embeds, order)}
        if "position_ids" in inspect.signature(type(module).forward).parameters:
            moved["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        return args, {**kwargs, "attention_mask": mask, **moved}
    num_virtual = mask.shape[1] - ids.shape[1]
    order = torch.argsort((mask[:, num_virtual:] == 0).int(), dim=1, stable=True)
    text_mask = mask[:, num_virtual:].gather(1, order)
    whole = torch.cat([mask[:, :num_virtual], text_mask], dim=1)
    return args, {**kwargs, "attention_mask": whole, "input_ids": ids.gather(1, order)}


def _gather_rows(embeds: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder the positions of every row; shape (batch, tokens, hidden_size)."""
    return embeds.gather(1, order[:, :, None].expand_as(embeds))
