"""The strict base of every section: unknown keys are rejected, values never silently cast, instances frozen."""

from __future__ import annotations

import re
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TOO_LARGE = 2**63
_LARGEST_FLOAT, _SMALLEST_FLOAT = 3.4e38, 1.2e-38
"""Of 32 bits, in which nearly all is computed: others are infinite or zero there, and Python's own overflows."""
_NAME = re.compile(r"(.*_)?(dir|name|path|revision|split|subset)")
"""Fields whose text is a name: blank it names nothing, as where a variable of the shell is not set."""

GENERATED: dict[str, Any] = {"use_attribute_docstrings": False}
"""Class keywords for sections created at run time, which have no source for pydantic to read docstrings from."""


class Section(BaseModel):
    """One section of the YAML file; its field docstrings become the documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    ALIASES: ClassVar[dict[str, str]] = {}
    """Older or alternative spellings of this section's keys: `{"r": "lora_r"}`."""

    def dump(self) -> dict[str, Any]:
        """Return the section as written to a resolved file."""
        return self.model_dump()

    @field_validator("*", mode="before")
    @classmethod
    def _no_silent_cast(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans given for numbers and blank names, and accept numbers in any notation."""
        assert info.field_name is not None
        if isinstance(value, str) and not value.strip() and _NAME.fullmatch(info.field_name):
            raise PydanticCustomError("blank", "is empty; give a value, or leave the key out")
        alone, listed = _numbers_of(cls, info.field_name)
        if isinstance(value, list):
            return _reject_unrepresentable([_read_number(item, listed) for item in value] if listed else value)
        return _reject_unrepresentable(_read_number(value, alone) if alone else value)


def list_choices(annotation: Any) -> tuple[Any, ...]:
    """List the values of all Literals in an annotation, including those in a union."""
    parts = (annotation, *get_args(annotation))
    return tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))


@cache
def _numbers_of(section: type[Section], name: str) -> tuple[set[Any], set[Any]]:
    """Return the types of a field, and those of its items; empty where values are not read as numbers."""
    alone = _plain_types(section.model_fields[name].annotation)
    listed = set().union(*(_plain_types(get_args(kind)[0]) for kind in alone if get_origin(kind) is list))
    are_numbers = [kinds & {int, float} and str not in kinds for kinds in (alone, listed)]
    return alone if are_numbers[0] else set(), listed if are_numbers[1] else set()


def _read_number(value: Any, kinds: set[Any]) -> Any:
    """Read a value as one of several types, some of them numbers."""
    if isinstance(value, bool) and bool not in kinds:
        raise PydanticCustomError("not_a_number", "true and false are no numbers")
    if isinstance(value, int) and float not in kinds and abs(value) >= _TOO_LARGE:
        raise PydanticCustomError("too_large", "is larger than any number that the libraries hold")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value.replace("_", ""))
    return value


def _reject_unrepresentable(value: Any) -> Any:
    """Reject floats, also in mappings and lists, that are NaN, or infinite or zero in 32 bits."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _reject_unrepresentable(each)
    elif isinstance(value, float) and not abs(value) <= _LARGEST_FLOAT:
        raise PydanticCustomError("not_finite", "is not a finite number of 32 bits; those go to 3.4e38")
    elif isinstance(value, float) and 0 < abs(value) < _SMALLEST_FLOAT:
        raise PydanticCustomError("too_small", "is zero in 32 bits, whose numbers begin at 1.2e-38")
    return value


def _plain_types(annotation: Any) -> set[Any]:
    """Return the types of a union such as `float | list[int] | None`, or the single type."""
    if get_origin(annotation) not in (Union, UnionType):
        return {annotation}
    return set().union(*map(_plain_types, get_args(annotation)))
