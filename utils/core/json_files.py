"""The one reader of JSON: whatever stands in a file, it is read or there is one sentence that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from utils.core.errors import UserError

T = TypeVar("T")

AGAIN = "it was cut off or edited; copy the folder again"


class NotJsonError(ValueError):
    """A text is no JSON that can be used; the message says why."""


def parse_json(content: str | bytes) -> Any:
    """Parse JSON, as bytes with or without a byte order mark; NaN and Infinity, which it does not have, are floats.

    Raises:
        NotJsonError: It is none, is nested too deep, or holds a number of thousands of digits.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise NotJsonError(f"not UTF-8 text at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise NotJsonError("not JSON: lists within lists without end") from None
    except ValueError:
        raise NotJsonError("not JSON: a number of thousands of digits") from None


def is_json(content: str | bytes) -> bool:
    """Tell whether a text is JSON."""
    try:
        parse_json(content)
    except NotJsonError:
        return False
    return True


def load_json(file: Path) -> Any:
    """Read a file of JSON."""
    return parse_json(file.read_bytes())


def load_object(file: Path, hint: str = AGAIN, error: type[UserError] = UserError) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UserError: Or the given class of it, with the hint what to do: the file cannot be read, or holds something else.
    """
    try:
        data = load_json(file)
    except NotJsonError as problem:
        raise error(f"{file}: {problem}; {hint}") from None
    except OSError as problem:
        raise error(f"{file}: cannot be read: {problem.strerror}") from None
    if not isinstance(data, dict):
        raise error(f"{file}: holds no JSON object; {hint}")
    return data


def load_as(kind: type[T], file: Path, hint: str = AGAIN) -> T:
    """Read a file that holds one JSON object with the fields of a dataclass or TypedDict; further keys are let be.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    from pydantic import TypeAdapter, ValidationError

    data = load_object(file, hint)
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {key}: {first['msg']}; {hint}") from None


def find_object(file: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; an empty one where it is not there, or holds something else."""
    try:
        data = load_json(file)
    except (NotJsonError, OSError):
        return {}
    return data if isinstance(data, dict) else {}
