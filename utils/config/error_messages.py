"""Turns pydantic's errors into sentences: the value found, what is allowed, and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from utils.config.document import Document, KeyPath
from utils.config.section import Section, list_choices
from utils.core.errors import Code, Problem

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
_PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "a mapping": "mappings"}
_BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "up to", "min_length": "of a length from"}
MAX_SHOWN = 50
_SYNONYMS = {
    "dora": ("lora", "lora with use_dora: true"), "rslora": ("lora", "lora with use_rslora: true"),
    "lora_plus": ("loraplus_lr_ratio", "loraplus_lr_ratio"), "loraplus": ("loraplus_lr_ratio", "loraplus_lr_ratio"),
    **dict.fromkeys(
        ("full", "full_finetuning", "full-finetuning", "fft", "finetune"), ("none", "none, which is full fine-tuning")
    ),
    **{name: (method, method) for method, names in {
        "prefix-tuning": ("prefix", "prefix_tuning"), "prompt-tuning": ("prompt", "prompt_tuning", "soft_prompt"),
        "p-tuning": ("ptuning", "p_tuning", "p_tuning_v1"), "head-only": ("linear_probe", "linear-probe", "freeze"),
    }.items() for name in names},
    "qlora": ("lora", "lora with model.quantization: nf4"), "kaiming": ("true", "true, by which A is Kaiming uniform"),
    **dict.fromkeys(
        ("lora_r", "r", "rank", "lora_rank"), ("init_r", "init_r (at the start) and target_r (at the end)")
    ),
}  # fmt: skip
"""Terms from other tools, with the valid name each requires and the suggestion to show."""


def explain_errors(
    error: ValidationError,
    section: type[Section],
    path: KeyPath,
    document: Document,
    elsewhere: dict[str, str],
) -> Iterator[Problem]:
    """Yield one problem per key for every mistake in the section at `path`.

    `elsewhere` maps keys of other sections to a hint where they belong.
    """
    seen: set[KeyPath] = set()
    errors = error.errors()
    if len(errors) > MAX_SHOWN:
        message = f"{len(errors) - MAX_SHOWN:,} more mistakes in this section; only the first are shown"
        yield Problem(message, ".".join(path), document.place_of(path))
    for details in errors[:MAX_SHOWN]:
        keys, field = _resolve(details["loc"], section)
        where = (*path, *keys)
        if where in seen:
            continue  # another branch of the same union; one sentence already covers all branches
        seen.add(where)
        code: Code = "wrong_value"
        if details["type"] == "extra_forbidden":
            code = "unknown_key"
            message = _unknown_key(str(details["loc"][-1]), _owner(section, keys), elsewhere)
        elif details["type"] == "missing":
            code = "missing"
            message = f"missing; add it under {path[-1]}:" if path else "missing; add it at the top of the file"
        elif details["type"] == "value_error":
            message = str(details["ctx"]["error"])
        elif details["type"] in ("blank", "not_finite", "too_large", "too_small"):  # our own, in config/section.py
            given = details["input"]
            shown = "one of its numbers" if isinstance(given, dict | list) else _show(given)
            message = f"{shown} {details['msg']}"
        else:
            message = _wrong_value(document.get(where, details["input"]), field)
        yield Problem(message, ".".join(where), document.place_of(where), code)


def suggest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Suggest the nearest valid name, or list all valid names when there are few."""
    if meant := _find_synonym(name, known):
        return f"; did you mean {meant}?"
    near = get_close_matches(name.lower(), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return list_all(known)


def describe_type(annotation: Any) -> str:
    """Describe the values a field accepts."""
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
    return _TYPE_NAMES.get(annotation, "a mapping" if isinstance(annotation, type) else "another value")


def _resolve(location: tuple[int | str, ...], section: type[Section]) -> tuple[KeyPath, FieldInfo | None]:
    """Follow an error's location through nested sections, ignoring list indices and union tags."""
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
    if _find_synonym(key, known):
        return f"unknown key{suggest(key, known)}"
    near = find_misspelled(key, known)
    return f"unknown key; did you mean {owner.ALIASES.get(near, near)}?" if near else f"unknown key{list_all(known)}"


def find_misspelled(key: str, known: Iterable[str]) -> str | None:
    """Find the known key that `key` is a misspelling of, if any.

    Similar is not enough: `use_qalora` is not `use_rslora`. Each part must match but for a letter or two, or its end.
    """
    parts, split = _split_key(key), {each: _split_key(each) for each in known}
    close = [each for each, its in split.items() if len(its) == len(parts) and all(map(_is_typo, parts, its))]
    joined = [each for each, its in split.items() if "".join(its) == "".join(parts)]
    longer = [each for each in split if len(key) > 3 and each.startswith(key.lower())]
    return next(iter((*joined, *get_close_matches(key.lower(), close, n=1, cutoff=0), *longer)), None)


def _split_key(key: str) -> list[str]:
    return [part for part in re.split(r"[_-]|(?<=[a-z])(?=[A-Z])", key) if part]


def _is_typo(one: str, other: str) -> bool:
    """Return whether two words differ by one letter, by two swapped neighbors or, if long, by two letters."""
    one, other = one.lower(), other.lower()
    if one == other:
        return True
    if len(one) == len(other) and sorted(one) == sorted(other):
        return sum(map(str.__ne__, one, other)) == 2
    same = sum(block.size for block in SequenceMatcher(None, one, other).get_matching_blocks())
    shorter, longer = sorted((len(one), len(other)))
    return longer - same <= (2 if shorter > 7 else 1) and same > (0 if same == shorter else 1)


def list_all(known: Sequence[str]) -> str:
    """List all valid keys when there are few."""
    return f"; use one of: {', '.join(known)}" if 0 < len(known) <= 20 else "; see configs/template.yaml"


def _find_synonym(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """Look up a term from another tool, and suggest its name here if that name is valid."""
    valid, meant = _SYNONYMS.get(name.lower(), (None, None))
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
    near = get_close_matches(str(value).lower(), map(str, list_choices(field.annotation)), n=1)
    if near:
        return f"{_show(value)} is not allowed; did you mean {near[0]}?"
    if str in (field.annotation, *get_args(field.annotation)) and isinstance(value, (int, float)):
        return f"{_show(value)} is not allowed; use {expected} (write it in quotes)"
    return f"{_show(value)} is not allowed; use {' '.join([expected, *bounds])}"


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
