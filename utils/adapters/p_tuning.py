"""P-tuning: embeddings before the text that a small trained network makes.

Source: Liu et al. 2021, arXiv:2103.10385.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from utils.adapters.adapter import AttachContext
from utils.adapters.prompt_learning import LIMITS, PromptSection, attach_prompt
from utils.adapters.prompt_learning import load as load
from utils.adapters.prompt_learning import save as save
from utils.adapters.prompt_learning import training_hooks as training_hooks
from utils.config.sections.peft import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Config(PromptSection):
    """Embeddings before the text, made by an MLP or LSTM that is trained with them and saved as what it makes."""

    LIMITS: ClassVar[Limits] = replace(
        LIMITS,
        adapter_path="its embeddings are saved without the network that makes them; train on by --resume of its run",
    )
    DEFAULT_LEARNING_RATE: ClassVar[float | None] = 3e-3

    method: Literal["p-tuning", "p_tuning"] = "p-tuning"
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The network that makes the embeddings."""
    encoder_hidden_size: int | None = Field(None, ge=1)
    """Its width; null: the model's."""
    encoder_num_layers: int = Field(2, ge=1)
    """Layers of the LSTM; the MLP always has the same."""
    encoder_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout between the LSTM's layers."""

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Find keys of the LSTM beside the MLP."""
        changed = {"encoder_num_layers": self.encoder_num_layers != 2, "encoder_dropout": self.encoder_dropout != 0}
        if self.encoder_reparameterization_type == "LSTM":
            return {}
        message = "has no effect on the MLP; set encoder_reparameterization_type: LSTM, or leave it out"
        return {name: message for name, is_changed in changed.items() if is_changed}


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Put embeddings that a trained network makes before every text; they start as large as the model's own."""
    import torch
    from peft import PromptEncoderConfig

    own = ("encoder_reparameterization_type", "encoder_num_layers", "encoder_dropout")
    fields = {name: getattr(config, name) for name in own}
    fields["encoder_hidden_size"] = config.encoder_hidden_size or model.config.get_text_config().hidden_size
    adapted: Any = attach_prompt(model, config, context, PromptEncoderConfig, **fields)
    encoder = adapted.prompt_encoder[adapted.active_adapter]
    with torch.no_grad():
        device = encoder.embedding.weight.device
        made = encoder(torch.arange(config.num_virtual_tokens, device=device)[None])
        scale = adapted.word_embeddings.weight.float().std().to(device) / made.std().clamp(min=1e-6)
        encoder.mlp_head[-1].weight.mul_(scale)
        encoder.mlp_head[-1].bias.mul_(scale)
    return adapted  # type: ignore[no-any-return]  # Any: its parts are made at run time
