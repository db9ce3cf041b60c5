"""The `sft:` section: the fields that only the installed SFTConfig has."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from pydantic import Field, create_model

from utils.config.installed import read_fields
from utils.config.section import Section

OURS = {
    "model_init_kwargs": "the model: section says how the base is loaded",
    "trust_remote_code": "set model.trust_remote_code",
    "chat_template_path": "set model.chat_template",
    "dataset_text_field": "set dataset.text_column",
    "dataset_kwargs": "the dataset: section says how rows are prepared",
    "eos_token": "the tokenizer has it",
    "pad_token": "set model.pad_token",
}
"""Fields of SFTConfig with another home."""


class OwnSftSection(Section):
    """The base to which the installed library's fields are added."""

    ALIASES: ClassVar[dict[str, str]] = {"max_seq_length": "max_length"}


@cache
def sft_section() -> type[OwnSftSection]:
    """Build the section's class from the installed SFTConfig."""
    shared = read_fields("transformers.training_args", "TrainingArguments")
    fields: dict[str, Any] = {
        name: (field.annotation, Field(default=None, description=field.help or None))
        for name, field in read_fields("trl.trainer.sft_config", "SFTConfig").items()
        if name not in shared and name not in OURS
    }
    return create_model("SftSection", __base__=OwnSftSection, **fields)
