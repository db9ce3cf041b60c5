"""Masks secrets in everything that is stored or shown: command lines, configurations, messages.

The inputs of a command (its arguments and configuration files) are searched for secrets first; every secret found is
then masked wherever it appears, even if cut, quoted or joined with other text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(
    r"(?:^|_)(?:password|passwd|pwd|passphrase|secret|credentials?|api_?key|access_?key|private_?key)$"
    r"|^(?:(?:use_)?auth_|hf_|hub_|access_|api_|secret_)*token$"
)
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-)[\w-]{16,}|(?<=Bearer )[\w.~+/-]+=*)"
)
_URL_LOGIN = re.compile(r"(?<=:)(/{1,2})[^\s/'\"<>]+@")
"""Also matches a single slash, as left by path normalization."""
_URL_VALUE = re.compile(
    r"(?<=[?&;])([\w.-]*(?:token|key|secret|sig|signature|auth|password|passwd|pwd|credential))=([^\s&'\"]+)",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(r"(?<![\w.-])([\w.-]+)=([^\s&,;'\"]+)")
_MIN_SECRET = 8
"""Shorter values of secret environment variables are not masked, since they occur in other text by chance."""
_MIN_LEARNED = 3
_SECRET_VARIABLES = ("TOKEN", "API_KEY", "ACCESS_KEY", "SECRET", "PASSWORD", "PASSWD")
_HARMLESS = frozenset({"", "null", "none", "true", "false", "~"})

_learned: set[str] = set()


def learn_command(words: Iterable[str]) -> None:
    """Learn the secrets of a command line: values of secret keys and options, and logins in URLs."""
    for word, key, value in _name_values(words):
        learn_text(word)
        learn_value(key, value)


def learn_value(key: str, value: str) -> None:
    """Learn a value whose key names a secret, unless it is a switch such as `true`."""
    bare = value.strip().strip("'\"")
    if is_secret_key(key) and bare.lower() not in _HARMLESS:
        _learn(value, bare)


def learn_text(text: str) -> None:
    """Learn secrets that a text shows by their form: logins and keys in URLs."""
    for found in _URL_LOGIN.finditer(text):
        login = found[0].strip("/").removesuffix("@")
        if ":" in login or len(login) >= _MIN_SECRET:  # a bare user name, as in git@, occurs elsewhere too
            _learn(login, login.partition(":")[2])
    for found in _URL_VALUE.finditer(text):
        _learn(found[2])


def forget_secrets() -> None:
    """Forget the learned secrets before another command runs in the same process."""
    _learned.clear()


def _learn(*secrets: str) -> None:
    """Remember secrets both as they are and as a message may quote them."""
    for secret in secrets:
        if len(secret) >= _MIN_LEARNED:
            _learned.update((secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]))


def mask_command(words: Iterable[str]) -> list[str]:
    """Mask a command line's secrets: values of secret keys and options, and tokens anywhere."""
    return [
        mask_text(word.removesuffix(value)) + MASK if mask_value(key, value) == MASK else mask_text(word)
        for word, key, value in _name_values(words)
    ]


def _name_values(words: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield each argument with the key or option it is a value of, if any, and that value.

    An argument after an option that names a secret is its value even if it contains `=`, as padded keys do.
    """
    option = ""
    for word in words:
        key, equals, value = word.partition("=")
        if option and not word.startswith("--"):
            yield word, option, word
        elif equals:
            yield word, key, value
        else:
            yield word, "", word
        option = word if not equals and word.startswith("-") and is_secret_key(word) else ""


def mask_value(key: str, value: Any) -> Any:
    """Mask a string that is a secret by its key or its form; switches such as `true` are kept."""
    if not isinstance(value, str):
        return value
    if is_secret_key(key) and value.strip().lower() not in _HARMLESS:
        return MASK
    if re.fullmatch(r"hf_[A-Za-z0-9]{4,}", value):
        return MASK
    return mask_text(value)


def mask_text(text: str) -> str:
    """Mask strings that look like secrets, and the secrets of the environment and the command."""
    return _hide(text, _list_environment() | _learned)


def _hide(text: str, secrets: set[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        if secret in text:  # a short secret may occur in other words by chance
            edge = r"(?<!\w)", r"(?!\w)"
            before, after = edge if len(secret) < _MIN_SECRET else ("", "")
            text = re.sub(f"{before}{re.escape(secret)}{after}", MASK, text)
    text = _URL_VALUE.sub(rf"\1={MASK}", _TOKEN.sub(MASK, text))
    return _ASSIGNED.sub(_mask_assigned, _URL_LOGIN.sub(rf"\1{MASK}@", text))


def mask_tree(value: Any, but: tuple[str, ...] = ()) -> Any:
    """Mask the secrets in all strings of nested mappings and lists, except under the keys in `but`."""
    if isinstance(value, Mapping):
        masked = {key: each if key in but else mask_tree(mask_value(str(key), each)) for key, each in value.items()}
        return {mask_text(key) if isinstance(key, str) else key: each for key, each in masked.items()}
    if isinstance(value, list | tuple):
        return [mask_tree(each) for each in value]
    return mask_text(value) if isinstance(value, str) else value


def _mask_assigned(found: re.Match[str]) -> str:
    harmless = not is_secret_key(found[1]) or found[2].lower() in _HARMLESS
    return found[0] if harmless else f"{found[1]}={MASK}"


def holds_secret(text: str) -> bool:
    """Return whether a text contains a string that looks like a secret, or one of the environment's secrets."""
    return _hide(text, _list_environment()) != text


def is_secret_key(key: str) -> bool:
    """Return whether a key or option names a secret: `model.token` and `--hf_token` do, `max_new_tokens` does not."""
    name = key.rsplit(".", 1)[-1].lstrip("-").replace("-", "_").lower()
    return bool(_SECRET_KEY.search(name))


def _list_environment() -> set[str]:
    """Return the values of variables such as HF_TOKEN and WANDB_API_KEY."""
    names = [name for name in os.environ if name.upper().endswith(_SECRET_VARIABLES)]
    values = (os.environ[name] for name in names)
    return {value for value in values if len(value) >= _MIN_SECRET}
