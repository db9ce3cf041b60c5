"""Full fine-tuning: no adapter, every parameter of the model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from utils.adapters.adapter import AttachContext, keep_float32, load_whole, save_whole
from utils.config.sections.peft import AdapterSection, Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

save, load = save_whole, load_whole


class Config(AdapterSection):
    """Full fine-tuning."""

    LIMITS: ClassVar[Limits] = Limits(
        quantization="the weights of a quantized base cannot be trained; drop model.quantization, or use lora",
        merge="there is no adapter to merge: final_model/ is the whole model already",
        adapter_path="there is no adapter: name the whole model in model.name_or_path",
    )

    method: Literal["none"] = "none"

    def find_unused(self) -> dict[str, str]:
        """Say that there are no initial weights to draw: a head's are the run's."""
        return (
            {}
            if self.init_seed is None
            else {"init_seed": "there is no adapter; a new head is drawn by the run's seed"}
        )


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Make every parameter trainable; float32 under autocast, or updates smaller than a bfloat16 step are lost."""
    model.requires_grad_(True)
    keep_float32(model, context)
    return model
