"""How many tokens a model can hold, and which of them are left for an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.modeling import positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def count_positions(model: PreTrainedModel) -> int | None:
    """Count the tokens a model can hold, less those that a prompt-learning adapter puts before each text.

    Returns:
        None: the model does not say.
    """
    found = positions.count_positions(model.config.to_dict())
    if found is None:
        return None
    return found - (int(model.active_peft_config.num_virtual_tokens) if is_prompt_learning(model) else 0)


def is_prompt_learning(model: PreTrainedModel) -> bool:
    """Tell whether an adapter puts tokens before the text: its positions go wrong behind padding."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def find_prompt_limit(window: int, max_new_tokens: int) -> int:
    """Find how long prompts may be where a model holds `window` tokens: max_new_tokens, or half of them, remain."""
    return max(window - max_new_tokens, window // 2, 1)
