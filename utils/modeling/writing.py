"""Checks before training or merging that everything saved with the weights can be written."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_ISSUE = re.compile(r"^- `(\w+)`: ", re.MULTILINE)


def require_writable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write configuration, generation settings and tokenizer, with its chat template, to a temporary folder.

    Settings that transformers reads but refuses to write, and that have no effect, are removed with one warning.

    Raises:
        ModelError: Something cannot be written, so that a finished run would be lost.
    """
    plain: Any = model.get_base_model() if hasattr(model, "peft_config") else model
    if removed := _clean_generation_config(plain):
        logger.warning(
            "the base's generation settings contradict each other and could not be saved so; without effect, and left "
            "out of what is saved: %s", ", ".join(removed),
        )  # fmt: skip
    adapters: dict[str, Any] = getattr(model, "peft_config", {})
    writers: list[tuple[str, Callable[[str], Any]]] = [
        ("config.json", plain.config.save_pretrained),
        *((("generation_config.json", plain.generation_config.save_pretrained),) if plain.can_generate() else ()),
        *(("adapter_config.json", each.save_pretrained) for each in adapters.values()),
        ("tokenizer", tokenizer.save_pretrained),
    ]
    with tempfile.TemporaryDirectory(prefix="lora_ns_") as folder:
        for what, write in writers:
            _try_writing(what, write, Path(folder), str(plain.name_or_path or "the base"))


def _try_writing(what: str, write: Callable[[str], Any], folder: Path, base: str) -> None:
    try:
        write(str(folder))
    except (AssertionError, ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the {what} of {base} cannot be written back, which would lose a finished run: {reason}; mend that "
            "file in a copy of the base, and name the copy in model.name_or_path"
        ) from error


def _clean_generation_config(model: Any) -> list[str]:
    """Remove settings that transformers reports as having no effect, such as a temperature with do_sample: false."""
    from transformers import GenerationConfig

    config = model.generation_config if model.can_generate() else None
    if config is None:
        return []
    try:
        config.validate(strict=True)
    except ValueError as error:
        idle = _ISSUE.findall(str(error))
    else:
        return []
    removed = [f"{name}: {getattr(config, name)}" for name in idle]
    for name in idle:
        setattr(config, name, getattr(GenerationConfig(), name))
    return removed
