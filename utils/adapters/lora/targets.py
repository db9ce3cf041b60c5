"""Tokens that LoRA trains beside itself, and what is said about names that fit nothing, or too much."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from utils.core.errors import ConfigError, ModelError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from utils.adapters.adapter import AttachContext
    from utils.adapters.lora import Config

logger = logging.getLogger(__name__)


def find_new_tokens(
    model: PreTrainedModel, context: AttachContext, modules_to_save: list[str] | None
) -> dict[str, list[int]] | None:
    """Train the rows of new tokens: where they are read, and in a language model of its own head where written.

    A module that is trained whole needs none.

    Raises:
        ConfigError: One of two that share their weight is trained whole: the other would not learn the new tokens.
    """
    if not context.added_token_ids:
        return None
    embeddings = [model.get_input_embeddings()]
    head = model.get_output_embeddings() if not context.has_new_head else None
    if head is not None:
        embeddings.append(head)
    names = sorted(name for name, module in model.named_modules() if any(module is each for each in embeddings))
    left = [name for name in names if not any(f".{name}".endswith(f".{each}") for each in modules_to_save or [])]
    if head is not None and head.weight is embeddings[0].weight:
        if len(left) == 1:
            both = " and ".join(name.rsplit(".", 1)[-1] for name in names)
            message = f"{both} share their weight; with new tokens name both, or none: the tokens' rows are trained"
            raise ConfigError([Problem(message, "peft.modules_to_save")])
        left = [name for name in left if model.get_submodule(name) is embeddings[0]]
    return {name.rsplit(".", 1)[-1]: list(context.added_token_ids) for name in left} or None


def warn_of_idle_names(model: PreTrainedModel, config: Config) -> None:
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


def refuse_nested(model: PreTrainedModel, modules_to_save: list[str]) -> None:
    """Refuse names that peft, which compares endings, finds within each other: it cannot reload such an adapter."""
    for name in modules_to_save:
        found = [each for each, _ in model.named_modules() if each.endswith(name)]
        for outer in found:
            if inner := next((each for each in found if each.startswith(f"{outer}.")), None):
                raise ModelError(f"peft.modules_to_save: {name} fits {outer} and {inner} inside it; name one in full")
