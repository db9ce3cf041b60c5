"""The `generation:` section: how long, how freely and how many at a time a model writes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from utils.config.section import Section


class GenerationSection(Section):
    """How answers are generated."""

    ALIASES: ClassVar[dict[str, str]] = {"max_tokens": "max_new_tokens", "stop_strings": "stop"}

    max_new_tokens: int = Field(256, ge=1)
    """Tokens an answer may have."""
    temperature: float = Field(0.0, ge=0)
    """0: always the likeliest token; above: draw, the flatter the higher."""
    top_p: float | None = Field(None, gt=0, le=1)
    """With temperature above 0: draw among the likeliest tokens that hold this share of the probability."""
    top_k: int | None = Field(None, ge=1)
    """With temperature above 0: draw among so many likeliest tokens."""
    batch_size: int = Field(16, ge=1)
    """Prompts answered at once; halved for a batch that does not fit into the GPU's memory."""
    stop: list[str] = []
    """Texts that end an answer, besides the data set's own; the answer is cut before them."""

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty text would stop every answer at once; leave it out")
        return value
