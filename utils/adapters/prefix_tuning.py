"""Prefix tuning: trained keys and values in front of the text, in every layer.

Source: Li and Liang 2021, arXiv:2101.00190.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from utils.adapters.adapter import AttachContext, LoadBase
from utils.adapters.prompt_learning import LIMITS, PromptSection, attach_prompt, require_cache
from utils.adapters.prompt_learning import load as load_prompt
from utils.adapters.prompt_learning import save as save
from utils.adapters.prompt_learning import training_hooks as training_hooks
from utils.config.sections.peft import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_ROUTER = "experts are not chosen for a prefix, and the routers are frozen; leave it out"
_NO_CACHE = "its attention takes no keys and values from outside; use p-tuning or prompt-tuning, or lora"


class Config(PromptSection):
    """Trained keys and values in every layer, to which the text attends."""

    LIMITS: ClassVar[Limits] = replace(
        LIMITS,
        gradient_checkpointing=(
            "layers that are recomputed are not handed the prefix; leave it off, or use p-tuning, prompt-tuning or lora"
        ),
        router_loss=_ROUTER,
        model_types=LIMITS.model_types
        | dict.fromkeys(("deberta", "deberta-v2", "distilbert", "modernbert"), _NO_CACHE),
    )
    DEFAULT_LEARNING_RATE: ClassVar[float | None] = 3e-2

    method: Literal["prefix-tuning", "prefix_tuning"] = "prefix-tuning"
    prefix_init_std: float = Field(0.02, ge=0)
    """Standard deviation of the initial keys and values, small compared to the text's own; peft's default is 1."""
    prefix_projection: bool = False
    """Generate keys and values with a trained network; only the keys and values are saved."""
    encoder_hidden_size: int | None = Field(None, ge=1)
    """Hidden size of that network; null: the model's."""

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return keys of the network that are set without it."""
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            return {"encoder_hidden_size": "has no effect without prefix_projection: true"}
        return {}


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Prepend trained keys and values to every text, in every layer."""
    import torch
    from peft import PrefixTuningConfig

    require_cache(model)
    _leave_out_router_loss(model)
    width = config.encoder_hidden_size or model.config.get_text_config().hidden_size
    fields = {"prefix_projection": config.prefix_projection, "encoder_hidden_size": width}
    adapted: Any = attach_prompt(model, config, context, PrefixTuningConfig, **fields)
    encoder = adapted.prompt_encoder[adapted.active_adapter]
    with torch.no_grad():
        if config.prefix_projection:  # the last layer determines the scale of the output
            encoder.transform[-1].weight.normal_(std=config.prefix_init_std)
            encoder.transform[-1].bias.zero_()
        else:
            encoder.embedding.weight.normal_(std=config.prefix_init_std)
    return adapted


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load a saved prefix onto a freshly loaded base."""
    adapted = load_prompt(folder, load_base)
    _leave_out_router_loss(adapted.get_base_model())
    return adapted


def _leave_out_router_loss(model: Any) -> None:
    """Turn off the load-balancing loss of experts, which would apply the mask of prefix and text to the text."""
    config = model.config.get_text_config()
    if getattr(config, "router_aux_loss_coef", None):
        logger.info("the loss that balances experts is left out: %s", _ROUTER)
        config.router_aux_loss_coef = 0.0
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = False
