"""QST's member of peft's list of methods, which is closed: peft has no entry point for methods of others."""

from __future__ import annotations

import importlib.metadata

from peft.utils import PeftType

from utils.core.errors import ModelError

TESTED = ((0, 21), (0, 22))
"""First version of peft that is known to work, and the first that is not."""


def add_peft_type() -> PeftType:
    """Add the member; a second call changes nothing.

    Raises:
        ModelError: The installed peft is one that this was not tested with.
    """
    _require_tested(importlib.metadata.version("peft"))
    if "QST" not in PeftType.__members__:
        _add_member("QST")
    return PeftType("QST")


def _require_tested(version: str) -> None:
    major, minor = (int(part) for part in version.split(".")[:2])
    first, end = (".".join(map(str, each)) for each in TESTED)
    if not TESTED[0] <= (major, minor) < TESTED[1]:
        raise ModelError(
            f"peft.method: qst needs peft >= {first}, < {end}, and {version} is installed: QST joins peft's list of "
            f"methods, whose inside changes; run pip install 'peft>={first},<{end}'"
        )


def _add_member(name: str) -> None:
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
