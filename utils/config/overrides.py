"""Reads the `key=value` words of a command line as YAML, into a document to lay over the file."""

from __future__ import annotations

from collections.abc import Sequence

from utils.config.document import Document, SourceLocation, parse_value
from utils.core.errors import ConfigError, Problem


def read_overrides(overrides: Sequence[str]) -> Document:
    """Read overrides into a document; a later one wins over an earlier one of the same key.

    Raises:
        ConfigError: A value is not YAML.
    """
    document = Document(source="command line")
    problems: list[Problem] = []
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            document.set(tuple(key.split(".")), parse_value(text), SourceLocation("command line"))
        except ConfigError:
            problems.append(Problem(f"{text!r} is not a value in YAML syntax", key, "command line"))
    if problems:
        raise ConfigError(problems)
    return document
