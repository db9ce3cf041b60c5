"""Reads JSON: unusable content of any kind is reported in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from utils.core.errors import UserError

T = TypeVar("T")

AGAIN = "it was cut off or edited; copy the folder again"


class NotJsonError(ValueError):
    """The text is not usable JSON; the message says why."""


def parse_json(content: str | bytes) -> Any:
    """Parse JSON, with an optional byte order mark; the non-standard NaN and Infinity become floats.

    Raises:
        NotJsonError: The content is not JSON, is nested too deeply, or has a number of thousands of digits.
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
    """Return whether a text is JSON."""
    try:
        parse_json(content)
    except NotJsonError:
        return False
    return True


def load_json(file: Path) -> Any:
    """Read a JSON file."""
    return parse_json(file.read_bytes())


def load_object(file: Path, hint: str = AGAIN, error: type[UserError] = UserError) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UserError: The file cannot be read or has other content; `error` and `hint` choose the class and the advice.
    """
    try:
        data = load_json(file)
    except NotJsonError as problem:
        raise error(f"{file}: {problem}; {hint}") from None
    except OSError as problem:
        raise error(f"{file}: cannot be read: {problem.strerror}") from None
    if not isinstance(data, dict):
        raise error(f"{file}: is not a JSON object; {hint}")
    return data


def load_as(kind: type[T], file: Path, hint: str = AGAIN) -> T:
    """Read a JSON object into a dataclass or TypedDict, ignoring additional keys.

    Raises:
        UserError: The file cannot be read, or its content does not match.
    """
    return read_as(kind, load_object(file, hint), file, hint)


def read_as(kind: type[T], data: Any, file: Path | str, hint: str = AGAIN) -> T:
    """Read a parsed JSON object as `load_as` does; `file` is its name in messages."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {key}: {first['msg']}; {hint}") from None


def find_object(file: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object, or return {} if the file is missing or has other content."""
    try:
        data = load_json(file)
    except (NotJsonError, OSError):
        return {}
    return data if isinstance(data, dict) else {}
