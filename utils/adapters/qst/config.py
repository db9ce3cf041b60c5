"""The adapter_config.json of a side network, and QST's member of peft's enum of methods.

The enum is closed: peft has no entry point for external methods.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass, field
from typing import Any

from packaging.version import Version
from peft import PeftConfig
from peft.utils import PeftType

from utils.core.errors import ModelError

DOWNSAMPLES = ("adapter", "lora", "linear", "maxpool", "avgpool")
MIXES = ("residual", "paper", "sigmoid")
GATES = ("scalar", "vector")

TESTED = ((0, 21), (0, 22))
"""First supported version of peft, and the first unsupported one."""


@dataclass
class QSTConfig(PeftConfig):
    """Quantized side tuning: a narrow network beside a frozen backbone, which it reads but never feeds.

    Source: Zhang et al. 2024, arXiv:2401.07159 (ACL 2024).

    Raises:
        ValueError: A field is invalid.
    """

    reduction_factor: int = field(default=16, metadata={"help": "The side network is hidden_size / this wide."})
    downsample: str = field(default="adapter", metadata={"help": f"One of {', '.join(DOWNSAMPLES)}."})
    downsample_rank: int = field(default=16, metadata={"help": "Inner width of adapter and lora."})
    side_layers: str | list[int] = field(
        default="all", metadata={"help": "Backbone layers with a block beside them: all, every_2 .., or their numbers."}
    )
    mix: str = field(default="residual", metadata={"help": f"One of {', '.join(MIXES)}."})
    gate: str = field(default="scalar", metadata={"help": f"One of {', '.join(GATES)}."})
    gate_init: float = field(default=0.0, metadata={"help": "Value of a gate before the sigmoid at the start."})
    side_head_dim: int | None = field(default=None, metadata={"help": "Of the side attention; None: the backbone's."})
    side_dropout: float = field(default=0.0, metadata={"help": "Dropout behind attention and MLP of a block."})
    checkpoint_side: bool = field(default=False, metadata={"help": "Recompute the side blocks in the backward pass."})
    layers_path: str | None = field(default=None, metadata={"help": "Path of the layers in an unknown architecture."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    target_modules: Any = field(default=None, metadata={"help": "Set by QSTModel: where the side network joins."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type()
        for name, known in (("downsample", DOWNSAMPLES), ("mix", MIXES), ("gate", GATES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name in ("reduction_factor", "downsample_rank", "side_head_dim"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: must be 1 or more")
        if isinstance(self.side_layers, str) and not re.fullmatch(r"all|every_[1-9]\d*", self.side_layers):
            raise ValueError(f"side_layers: {self.side_layers!r} is neither all, nor every_2 or similar, nor a list")


def choose_side_layers(wanted: str | list[int], num_layers: int) -> list[int]:
    """Return the backbone layers, from 0, that have a side block; `every_k` includes the last layer.

    Raises:
        ValueError: There is no such layer.
    """
    if isinstance(wanted, str):
        step = 1 if wanted == "all" else int(wanted.removeprefix("every_"))
        return list(range(num_layers - 1, -1, -step))[::-1]
    chosen = sorted(set(wanted))
    if not chosen or chosen[0] < 0 or chosen[-1] >= num_layers:
        raise ValueError(f"side_layers: {wanted} are not layers of the model, which has 0 to {num_layers - 1}")
    return chosen


def add_peft_type() -> PeftType:
    """Add the enum member; a second call has no effect.

    Raises:
        ModelError: The installed version of peft is not supported.
    """
    _require_tested(importlib.metadata.version("peft"))
    if "QST" not in PeftType.__members__:
        _add_member("QST")
    return PeftType("QST")


def _require_tested(version: str) -> None:
    first, end = (".".join(map(str, each)) for each in TESTED)
    if not TESTED[0] <= Version(version).release[:2] < TESTED[1]:
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
