"""Makes peft know the method QST: `get_peft_model`, `PeftModel.from_pretrained` and TRL then take it as any other."""

from __future__ import annotations

import importlib.metadata

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method

from utils.errors import ModelError

TESTED = ((0, 21), (0, 22))
"""First version of peft that is known to work, and the first that is not."""


def register_qst() -> None:
    """Register the method; a second call changes nothing.

    Raises:
        ModelError: The installed peft is one that this was not tested with.
    """
    if "QST" in PeftType.__members__ and PeftType("QST") in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    _require_tested(importlib.metadata.version("peft"))
    from utils.adapters.qst.config import QSTConfig
    from utils.adapters.qst.model import QSTModel

    _add_member("QST")
    register_peft_method(name="qst", config_cls=QSTConfig, model_cls=QSTModel, prefix=QSTModel.prefix)


def _require_tested(version: str) -> None:
    major, minor = (int(part) for part in version.split(".")[:2])
    first, end = (".".join(map(str, each)) for each in TESTED)
    if not TESTED[0] <= (major, minor) < TESTED[1]:
        raise ModelError(
            f"peft.method: qst needs peft >= {first}, < {end}, and {version} is installed: QST joins peft's list of "
            f"methods, whose inside changes; run pip install 'peft>={first},<{end}'"
        )


def _add_member(name: str) -> None:
    """Add a method to peft's enumeration, which is closed: peft has no entry point for methods of others."""
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
