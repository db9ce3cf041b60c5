"""Full fine-tuning: no adapter, every parameter of the model is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from utils.adapters.adapter import AttachContext, WholeModelSection, keep_float32, load_whole, save_whole
from utils.config.sections.peft import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

save, load = save_whole, load_whole


class Config(WholeModelSection):
    """Full fine-tuning."""

    LIMITS: ClassVar[Limits] = replace(
        WholeModelSection.LIMITS,
        quantization="the weights of a quantized base cannot be trained; drop model.quantization, or use lora",
    )

    method: Literal["none"] = "none"


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Make every parameter trainable, in float32 under autocast, since bfloat16 would lose small updates."""
    model.requires_grad_(True)
    keep_float32(model, context)
    return model
