"""The `peft.cache:` section: whether and where to cache the backbone's hidden states of training rows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from utils.config.section import Section

_SPELLINGS = {True: "auto", False: "off", None: "off", "on": "auto", "none": "off"}
_REMEDY = "use off, auto, or a mapping such as {where: disk, dtype: bf16, budget_gb: 20}"


class CacheSection(Section):
    """Where to keep the hidden states of training rows after the first epoch, for later epochs to skip the backbone."""

    where: Literal["ram", "disk"] = "ram"
    """ram: in memory, for this run only, separately in each process. disk: in files shared by the run's processes and
    reused by later runs with the same backbone and rows, whatever their seed or learning rate."""
    dtype: Literal["auto", "bf16", "int8"] = "auto"
    """auto: exactly as the backbone computes them. bf16: half the size of a float32 backbone's, rounded. int8: one byte
    per value with one scale per token and layer, about half the size of bf16; an approximation. Rounded states are only
    for training: evaluations compute the states again, so that scores are those of the saved model."""
    budget_gb: float | None = Field(None, gt=0)
    """Maximum size of the cache in GB of 1024**3 bytes, for all processes of a machine together; rows that do not fit
    are computed again in every epoch. null: half of the memory that is free when training starts or, on disk, 90% of
    the free space."""
    dir: str | None = None
    """where: disk only. Folder of the cache; null: `qst_cache` in the project's cache folder (LORA_NS_CACHE, else
    ~/.cache/lora-ns)."""

    @field_validator("dtype", mode="before")
    @classmethod
    def _spell_dtype(cls, value: Any) -> Any:
        return "bf16" if value == "bfloat16" else value

    @field_validator("dir")
    @classmethod
    def _check_dir(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("is empty; name a folder, or leave the key out")
        if value is not None and info.data.get("where") == "ram":
            raise ValueError("has no effect with where: ram; add where: disk, or leave dir out")
        return value


CacheChoice = Literal["off", "auto"] | CacheSection
"""Parsed values of `peft.cache`; its field needs `read_cache` as a validator of mode before."""


def read_cache(value: Any) -> Literal["off", "auto"] | CacheSection:
    """Parse `peft.cache`: off, auto, true, false, or a mapping.

    Raises:
        ValueError: It is something else; for a mapping, pydantic's ValidationError, whose locations pydantic keeps.
    """
    if isinstance(value, CacheSection):
        return value
    if isinstance(value, dict):
        return CacheSection.model_validate(value)
    # In a table of both, 1 and 0 would equal true and false.
    known = value is None or isinstance(value, (bool, str))
    word = _SPELLINGS.get(value.lower() if isinstance(value, str) else value, value) if known else None
    if isinstance(word, str) and word.lower() in ("off", "auto"):
        return "off" if word.lower() == "off" else "auto"
    if isinstance(word, str) and word.lower() in ("ram", "disk"):
        return CacheSection.model_validate({"where": word.lower()})
    raise ValueError(f"{value!r} is not allowed; {_REMEDY}")


def resolve_cache(value: Literal["off", "auto"] | CacheSection) -> CacheSection | None:
    """Return the settings of a cache, or None if it is off; auto is exact and in memory."""
    if isinstance(value, CacheSection):
        return value
    return CacheSection() if value == "auto" else None
