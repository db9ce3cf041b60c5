"""Prompt tuning: trained embeddings in front of the text.

Source: Lester et al. 2021, arXiv:2104.08691.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from utils.adapters.adapter import AttachContext
from utils.adapters.prompt_learning import PromptSection, attach_prompt
from utils.adapters.prompt_learning import load as load
from utils.adapters.prompt_learning import save as save
from utils.adapters.prompt_learning import training_hooks as training_hooks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Config(PromptSection):
    """Trained embeddings in front of the text; the model itself stays frozen."""

    DEFAULT_LEARNING_RATE: ClassVar[float | None] = 3e-2
    ALIASES: ClassVar[dict[str, str]] = {"prompt_tuning_init": "prompt_init", "prompt_tuning_init_text": "prompt_text"}

    method: Literal["prompt-tuning", "prompt_tuning"] = "prompt-tuning"
    prompt_init: Literal["vocabulary", "text", "random", "SAMPLE_VOCAB", "TEXT", "RANDOM"] = "vocabulary"
    """Initial embeddings: those of tokens sampled from the vocabulary, those of prompt_text, or random numbers. peft's
    names are accepted too."""
    prompt_text: str | None = None
    """Text whose token embeddings are the start with prompt_init: text; repeated or cut to num_virtual_tokens."""

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return a prompt_text that is missing, or set without prompt_init: text."""
        wants_text = self.prompt_init in ("text", "TEXT")
        if wants_text and not self.prompt_text:
            return {"prompt_text": "missing; prompt_init: text starts from it"}
        if self.prompt_text and not wants_text:
            return {"prompt_text": f"has no effect with prompt_init: {self.prompt_init}; set prompt_init: text"}
        return {}


_PEFT_NAMES = {"vocabulary": "SAMPLE_VOCAB", "text": "TEXT", "random": "RANDOM"}


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Prepend trained embeddings to every text."""
    from peft import PromptTuningConfig

    fields: dict[str, Any] = {"prompt_tuning_init": _PEFT_NAMES.get(config.prompt_init, config.prompt_init)}
    if fields["prompt_tuning_init"] == "TEXT":
        fields["prompt_tuning_init_text"] = config.prompt_text
        fields["tokenizer_name_or_path"] = model.name_or_path
        fields["tokenizer_kwargs"] = {"revision": context.base_commit} if context.base_commit else None
    return attach_prompt(model, config, context, PromptTuningConfig, **fields)
