"""The `generation:` section: how long, how freely and how many at a time a model writes."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from utils.config.error_messages import suggest
from utils.config.section import Section
from utils.core import registry


class GenerationSection(Section):
    """How answers are generated."""

    ALIASES: ClassVar[dict[str, str]] = {"max_tokens": "max_new_tokens", "stop_strings": "stop"}

    backend: str = "transformers"
    """What writes the answers; a file of utils/generation/backends."""
    max_new_tokens: int = Field(256, ge=1)
    """Tokens an answer may have."""
    min_new_tokens: int = Field(0, ge=0)
    """Tokens an answer has at least: among the first so many neither the end of text nor a stop text ends it."""
    temperature: float = Field(0.0, ge=0)
    """0: always the likeliest token; above: draw, the flatter the higher."""
    top_p: float | None = Field(None, gt=0, le=1)
    """With temperature above 0: draw among the likeliest tokens that hold this share of the probability."""
    top_k: int | None = Field(None, ge=1)
    """With temperature above 0: draw among so many likeliest tokens."""
    batch_size: int = Field(16, ge=1)
    """Prompts answered at once, at most; halved for a batch that does not fit into the GPU's memory."""
    max_batch_tokens: int = Field(16_384, ge=1)
    """Tokens of all prompts answered at once, with padding and the answers to come; fewer prompts are taken together
    when they are long, one at least."""
    stop: list[str] = []
    """Texts that end an answer, besides the data set's own; the answer is cut before them."""

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, value: str) -> str:
        if registry.normalize(value) == "server":
            raise ValueError("a server is named by --server URL, or by evaluation.server for evaluations of a run")
        if not registry.has("generation.backends", value):
            known = registry.names("generation.backends")
            raise ValueError(f"no backend called {value}{suggest(value, known)}")
        return registry.normalize(value)

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty text would stop every answer at once; leave it out")
        return value

    @model_validator(mode="after")
    def _room_for_least(self) -> GenerationSection:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens})")
        return self

    def list_deciding(self) -> dict[str, Any]:
        """Give the settings that decide what is written: all but those of how many prompts are answered at once."""
        deciding = self.model_dump(exclude={"batch_size", "max_batch_tokens"})
        if self.backend == "transformers":  # scores of earlier versions, which had no other, do not name it
            del deciding["backend"]
        return deciding
