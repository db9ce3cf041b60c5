"""Head-only training, the baseline that every adapter has to beat: the pretrained body stays frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from utils.adapters.adapter import AttachContext, head_modules, keep_float32
from utils.adapters.full_layout import load as load
from utils.adapters.full_layout import save as save
from utils.config.sections.adapter import AdapterSection, Limits
from utils.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Config(AdapterSection):
    """Only the new task head is trained."""

    LIMITS: ClassVar[Limits] = Limits(
        quantization="head-only saves the whole model, which a quantized base cannot be; drop model.quantization",
        causal_lm="a language model has no new head to train; use lora, or none for all weights",
        merge="there is no adapter to merge: final_model/ is the whole model already",
        adapter_path="there is no adapter: name the whole model in model.name_or_path",
    )

    method: Literal["head-only", "head_only"] = "head-only"


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Freeze the body and leave the head trainable.

    Raises:
        ConfigError: The task has no new head, or there are new tokens, whose embeddings would stay random.
    """
    if not context.has_new_head:
        raise ConfigError([Problem("head-only needs a task with a new head (task_type: SEQ_CLS)", "peft.method")])
    if context.added_token_ids:
        message = "is not with peft.method: head-only, which trains no embeddings; take it out, or use lora"
        raise ConfigError([Problem(message, "model.extra_special_tokens")])
    model.requires_grad_(False)
    for name in head_modules(model, context.new_modules):
        model.get_submodule(name).requires_grad_(True)
    keep_float32(model, context)
    return model
