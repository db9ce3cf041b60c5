"""The `generation:` section: answer length, sampling and batching."""

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
    """Backend that generates the answers; a file of utils/generation/backends."""
    max_new_tokens: int = Field(256, ge=1)
    """Maximum number of tokens in an answer."""
    min_new_tokens: int = Field(0, ge=0)
    """Minimum number of tokens in an answer: before that, neither the end of text nor a stop string ends it."""
    temperature: float = Field(0.0, ge=0)
    """0: greedy decoding; above 0: sampling, the flatter the higher."""
    top_p: float | None = Field(None, gt=0, le=1)
    """With temperature above 0: sample from the smallest set of likeliest tokens with this total probability."""
    top_k: int | None = Field(None, ge=1)
    """With temperature above 0: sample from this many likeliest tokens."""
    batch_size: int = Field(16, ge=1)
    """Maximum number of prompts answered at once; halved for a batch that does not fit into the GPU's memory."""
    max_batch_tokens: int = Field(16_384, ge=1)
    """Maximum number of tokens of all prompts answered at once, including padding and answers; a batch of long prompts
    holds fewer of them, but at least one."""
    stop: list[str] = []
    """Strings that end an answer, in addition to the dataset's own; the answer is cut before them."""

    @field_validator("backend")
    @classmethod
    def _check_backend(cls, value: str) -> str:
        if registry.normalize(value) == "server":
            raise ValueError("a server is named by --server URL, or by evaluation.server for evaluations of a run")
        if not registry.has("generation.backends", value):
            known = registry.names("generation.backends")
            raise ValueError(f"no backend called {value}{suggest(value, known)}")
        return registry.normalize(value)

    @field_validator("stop")
    @classmethod
    def _check_not_empty(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty text would stop every answer at once; leave it out")
        return value

    @model_validator(mode="after")
    def _check_min_tokens(self) -> GenerationSection:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens})")
        return self

    def answer_settings(self) -> dict[str, Any]:
        """Return the settings that affect the answers, that is all but the batch sizes."""
        deciding = self.model_dump(exclude={"batch_size", "max_batch_tokens"})
        if self.backend == "transformers":  # scores of versions with a single backend do not name it
            del deciding["backend"]
        return deciding
