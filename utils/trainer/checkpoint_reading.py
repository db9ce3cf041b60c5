"""Takes up a checkpoint's files or says in a sentence why they cannot be: what stands in them is not taken on trust."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from utils.core.errors import UserError
from utils.core.library_errors import explain_library

_ANOTHER = "one of its files is damaged or of something else; resume another one: --resume checkpoint-N"


@contextmanager
def explain_checkpoint(checkpoint: str | None) -> Iterator[None]:
    """Turn what torch and transformers raise over a checkpoint's files into a sentence.

    Raises:
        UserError: In place of it. A pickle that would run code is among these: torch's restricted reader refuses it.
    """
    try:
        with explain_library(lambda line: UserError(f"{checkpoint}: cannot be resumed ({line}); {_ANOTHER}")):
            yield
    except (RuntimeError, KeyError) as error:  # of torch's own functions, called by a line of ours
        raise UserError(f"{checkpoint}: cannot be resumed ({error}); {_ANOTHER}") from error


def require_like(found: Any, fresh: Any, checkpoint: str, where: str = "") -> None:
    """See to it that states which were taken up are of the kinds that they were before; training would break on others.

    Args:
        found: Nested mappings, lists and values, taken up.
        fresh: The same before.
        checkpoint: Its folder.
        where: What is compared.

    Raises:
        UserError: Something else stands in their place.
    """
    name = where or "its state"
    if isinstance(fresh, Mapping):
        if not isinstance(found, Mapping) or (missing := sorted(map(str, fresh.keys() - found.keys()))):
            lacks = f"lacks {missing[0]}" if isinstance(found, Mapping) else "is no mapping"
            raise UserError(f"{checkpoint}: cannot be resumed ({name} {lacks}); {_ANOTHER}")
        for key, value in fresh.items():
            require_like(found[key], value, checkpoint, f"{where}.{key}".lstrip("."))
    elif isinstance(fresh, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(fresh):
            raise UserError(f"{checkpoint}: cannot be resumed ({name} is not a list of {len(fresh)}); {_ANOTHER}")
        for index, value in enumerate(fresh):
            require_like(found[index], value, checkpoint, f"{where}[{index}]")
    elif fresh is not None and not _is_alike(found, fresh):
        raise UserError(
            f"{checkpoint}: cannot be resumed ({name} is {type(found).__name__} {str(found)[:40]!r}, and was "
            f"{type(fresh).__name__}); {_ANOTHER}"
        )


def _is_alike(found: Any, fresh: Any) -> bool:
    if isinstance(fresh, bool) or not isinstance(fresh, int | float):
        return isinstance(found, type(fresh)) or (fresh is False and found is None)
    return isinstance(found, int | float) and not isinstance(found, bool)
