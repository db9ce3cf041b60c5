"""Hides secrets in what is written down: command lines, configurations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"

_SECRET_KEY = re.compile(
    r"(?:^|_)(?:password|passwd|secret|credentials?|api_?key)$|^(?:(?:use_)?auth_|hf_|hub_|access_|api_|secret_)*token$"
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_URL_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_HARMLESS = frozenset({"", "null", "none", "true", "false", "~"})


def mask_command(words: Iterable[str]) -> list[str]:
    """Hide secrets in a command line: values of token-like keys and options, and tokens anywhere."""
    shown: list[str] = []
    is_secret_next = False
    for word in words:
        key, equals, value = word.partition("=")
        if is_secret_next and not word.startswith("--"):
            shown.append(mask_value("token", word))
        elif equals:
            shown.append(f"{key}={mask_value(key, value)}")
        else:
            shown.append(mask_value("", word))
        is_secret_next = not equals and word.startswith("-") and is_secret_key(word)
    return shown


def mask_value(key: str, value: Any) -> Any:
    """Hide a text that is a secret by its key or by its look; switches such as `true` stay."""
    if not isinstance(value, str):
        return value
    if is_secret_key(key) and value.strip().lower() not in _HARMLESS:
        return MASK
    if re.fullmatch(r"hf_[A-Za-z0-9]{4,}", value):
        return MASK
    return _URL_LOGIN.sub(MASK, _TOKEN.sub(MASK, value))


def is_secret_key(key: str) -> bool:
    """Tell whether a key or an option names a secret: `model.token`, `--hf_token`; not `max_new_tokens`."""
    name = key.rsplit(".", 1)[-1].lstrip("-").replace("-", "_").lower()
    return bool(_SECRET_KEY.search(name))
