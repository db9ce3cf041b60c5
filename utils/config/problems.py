"""Turns pydantic's errors into sentences: what was found, what would be right, the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from utils.config.document import Document, KeyPath
from utils.config.section import Section
from utils.errors import Problem

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
_PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "a mapping": "mappings"}
_BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "up to", "min_length": "of a length from"}
_MEANT = {
    "dora": ("lora", "lora with use_dora: true"), "rslora": ("lora", "lora with use_rslora: true"),
    "lora_plus": ("loraplus_lr_ratio", "loraplus_lr_ratio"), "loraplus": ("loraplus_lr_ratio", "loraplus_lr_ratio"),
    **dict.fromkeys(
        ("lora_r", "r", "rank", "lora_rank"), ("init_r", "init_r (at the start) and target_r (at the end)")
    ),
}  # fmt: skip
"""Words that others use, the valid name that has to be there, and what is said."""


def explain_errors(
    error: ValidationError,
    section: type[Section],
    path: KeyPath,
    document: Document,
    elsewhere: dict[str, str],
) -> Iterator[Problem]:
    """Explain every mistake in one section, one problem per key.

    Args:
        error: What pydantic found.
        section: The section's class.
        path: Where the section stands, such as `("peft",)`.
        document: The file, for places.
        elsewhere: Keys of other sections and where they belong, for misplaced keys.
    """
    seen: set[KeyPath] = set()
    for details in error.errors():
        keys, field = _resolve(details["loc"], section)
        where = (*path, *keys)
        if where in seen:
            continue  # the other branches of a union: one sentence names all of them
        seen.add(where)
        if details["type"] == "extra_forbidden":
            message = _unknown_key(str(details["loc"][-1]), _owner(section, keys), elsewhere)
        elif details["type"] == "missing":
            message = f"missing; add it under {path[-1]}:" if path else "missing; add it at the top of the file"
        elif details["type"] == "value_error":
            message = str(details["ctx"]["error"])
        else:
            message = _wrong_value(document.get(where, details["input"]), field)
        yield Problem(message, ".".join(where), document.place_of(where))


def suggest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Say which valid name is nearest, or name them all when they are few."""
    if meant := _find_meant(name, known):
        return f"; did you mean {meant}?"
    near = get_close_matches(name.lower(), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; use one of: {', '.join(known)}" if 0 < len(known) <= 20 else "; see configs/template.yaml"


def describe_type(annotation: Any) -> str:
    """Say in words what a field takes."""
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of: " + ", ".join(str(value) for value in get_args(annotation))
    if origin is list:
        item = describe_type(get_args(annotation)[0])
        return f"a list of {_PLURALS.get(item, item)}"
    if origin is dict or annotation is dict:
        return "a mapping"
    parts = get_args(annotation)
    if parts:
        return " or ".join(describe_type(part) for part in parts)
    return _WORDS.get(annotation, "a mapping" if isinstance(annotation, type) else "another value")


def _resolve(location: tuple[int | str, ...], section: type[Section]) -> tuple[KeyPath, FieldInfo | None]:
    """Follow an error's location through nested sections; list indices and union tags are no keys."""
    keys: list[str] = []
    field: FieldInfo | None = None
    owner: type[Section] | None = section
    for part in location:
        if owner is None or not isinstance(part, str):
            break
        if part in owner.model_fields:
            field = owner.model_fields[part]
            keys.append(part)
            owner = _nested(field.annotation)
        elif not _is_tag(part, owner):
            keys.append(part)
            break
    return tuple(keys), field


def _is_tag(part: str, owner: type[Section]) -> bool:
    return part == owner.__name__


def _owner(section: type[Section], keys: KeyPath) -> type[Section]:
    for key in keys[:-1]:
        section = _nested(section.model_fields[key].annotation) or section
    return section


def _nested(annotation: Any) -> type[Section] | None:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _unknown_key(key: str, owner: type[Section], elsewhere: dict[str, str]) -> str:
    known = [*owner.model_fields, *owner.ALIASES]
    if key in elsewhere:
        return f"not a key of this section; {elsewhere[key]}"
    near = get_close_matches(key.lower(), known, n=1, cutoff=0.75)
    if near and not _find_meant(key, known):
        return f"unknown key; did you mean {owner.ALIASES.get(near[0], near[0])}?"
    return f"unknown key{suggest(key, known)}"


def _find_meant(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """Say what a word of others is called here, where that is valid."""
    valid, meant = _MEANT.get(name.lower(), (None, None))
    return meant if valid in known else None


def _wrong_value(value: Any, field: FieldInfo | None) -> str:
    if field is None:
        return f"must be a mapping of keys, found {_show(value)}"
    expected = describe_type(field.annotation)
    bounds = [
        f"{word} {getattr(mark, name)}"
        for mark in field.metadata
        for name, word in _BOUNDS.items()
        if hasattr(mark, name)
    ]
    literal = [str(choice) for part in (field.annotation, *get_args(field.annotation)) for choice in _choices(part)]
    near = get_close_matches(str(value).lower(), literal, n=1)
    if near:
        return f"{_show(value)} is not allowed; did you mean {near[0]}?"
    if str in (field.annotation, *get_args(field.annotation)) and isinstance(value, (int, float)):
        return f"{_show(value)} is not allowed; use {expected} (write it in quotes)"
    return f"{_show(value)} is not allowed; use {' '.join([expected, *bounds])}"


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
