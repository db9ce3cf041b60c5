"""Hides secrets in what is written down and said: command lines, configurations, messages."""

from __future__ import annotations

import os
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
_MIN_SECRET = 8
"""Shorter values of the environment's secrets are left alone: they stand in other words by chance."""
_SECRET_VARIABLES = ("TOKEN", "API_KEY", "ACCESS_KEY", "SECRET", "PASSWORD", "PASSWD")
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
    return mask_text(value)


def mask_text(text: str) -> str:
    """Hide in a text what looks like a token, logins in addresses, and the values of the environment's secrets."""
    for secret in _list_secrets():
        text = text.replace(secret, MASK)
    return _URL_LOGIN.sub(MASK, _TOKEN.sub(MASK, text))


def holds_secret(text: str) -> bool:
    """Tell whether a text has something in it that `mask_text` hides."""
    return mask_text(text) != text


def is_secret_key(key: str) -> bool:
    """Tell whether a key or an option names a secret: `model.token`, `--hf_token`; not `max_new_tokens`."""
    name = key.rsplit(".", 1)[-1].lstrip("-").replace("-", "_").lower()
    return bool(_SECRET_KEY.search(name))


def _list_secrets() -> list[str]:
    """List the values of variables such as HF_TOKEN and WANDB_API_KEY, the longest first."""
    values = {value for name, value in os.environ.items() if name.upper().endswith(_SECRET_VARIABLES)}
    values = {value for value in values if len(value) >= _MIN_SECRET}
    return sorted(values, key=lambda value: (-len(value), value))
