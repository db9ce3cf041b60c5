"""Head-only training, the baseline that every adapter has to beat: the pretrained body stays frozen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from utils.adapters.adapter import AttachContext, WholeModelSection, head_modules, keep_float32, load_whole, save_whole
from utils.adapters.targets import refuse_new_tokens
from utils.config.sections.peft import Limits
from utils.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

save, load = save_whole, load_whole


class Config(WholeModelSection):
    """Only the new task head is trained."""

    LIMITS: ClassVar[Limits] = replace(
        WholeModelSection.LIMITS,
        quantization="head-only saves the whole model, which a quantized base cannot be; drop model.quantization",
        causal_lm="a language model has no new head to train; use lora, or none for all weights",
    )

    method: Literal["head-only", "head_only"] = "head-only"


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Freeze the body and leave the head trainable."""
    if not context.has_new_head:
        raise ConfigError([Problem("head-only needs a task with a new head (task_type: SEQ_CLS)", "peft.method")])
    refuse_new_tokens("head-only", context)
    model.requires_grad_(False)
    for name in head_modules(model, context.new_modules):
        model.get_submodule(name).requires_grad_(True)
    keep_float32(model, context)
    return model
