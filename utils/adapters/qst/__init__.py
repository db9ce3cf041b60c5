"""QST, quantized side tuning: a narrow trained network beside a frozen backbone, which gets no gradient.

Source: Zhang et al. 2024, arXiv:2401.07159 (ACL 2024). `QSTConfig` and `QSTModel` implement it for peft.
"""

from __future__ import annotations

import importlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from utils.adapters.adapter import AttachContext, LoadBase, keep_float32
from utils.adapters.peft_layout import save as save
from utils.adapters.qst.cache import CacheChoice, read_cache, resolve_cache
from utils.adapters.targets import ModulesSection, list_head, merge_modules_to_save, refuse_new_tokens
from utils.config.sections.peft import Limits
from utils.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from utils.adapters.qst.config import QSTConfig as QSTConfig
    from utils.adapters.qst.model import QSTModel as QSTModel

logger = logging.getLogger(__name__)

_LAZY = {"QSTConfig": "config", "QSTModel": "model"}


class Config(ModulesSection):
    """A side network of hidden_size / reduction_factor beside the frozen backbone; only it is trained."""

    LIMITS: ClassVar[Limits] = Limits(
        sharding=(
            "the side network reads the backbone's layers and feeds none of them, so its weights cannot be gathered "
            "layer by layer; its frozen backbone is small in 4 bits: use DDP or ZeRO-2"
        ),
        gradient_checkpointing=(
            "has nothing to recompute under qst: no gradient passes the backbone; set peft.checkpoint_side: true to "
            "recompute the side blocks"
        ),
        merge=(
            "a side network computes beside the base and changes none of its weights, so it cannot be merged; use the "
            "adapter on its base, or train by lora"
        ),
    )

    method: Literal["qst"] = "qst"
    reduction_factor: int = Field(16, ge=1)
    """The side network is hidden_size / reduction_factor wide; it must divide hidden_size."""
    downsample: Literal["adapter", "lora", "linear", "maxpool", "avgpool"] = "adapter"
    """Reduces hidden states to that width: adapter (low rank, SiLU, layer norm), lora (low rank), linear, maxpool or
    avgpool (without parameters)."""
    downsample_rank: int = Field(16, ge=1)
    """Inner width of adapter and lora."""
    side_layers: str | list[int] = "all"
    """Backbone layers with a side block: all, every_2, every_4 and so on, or their numbers from 0."""
    mix: Literal["residual", "paper", "sigmoid"] = "residual"
    """residual: h + up(g), which starts exactly as the pretrained model; paper: alpha h + (1 - alpha) up(g) with a
    trained alpha that starts at 1; sigmoid: the same with sigmoid(alpha), as in the authors' code."""
    gate: Literal["scalar", "vector"] = "scalar"
    """One gate per side layer, or one per dimension."""
    gate_init: float = 0.0
    """Initial value of the gates before the sigmoid: 0 mixes both inputs of a block equally."""
    side_head_dim: int | None = Field(None, ge=2)
    """Dimensions of a side attention head; null: as in the backbone."""
    side_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout after attention and MLP of the side blocks."""
    checkpoint_side: bool = False
    """Recompute the side blocks in the backward pass: less memory, more time."""
    cache: CacheChoice = "off"
    """Whether to cache the backbone's hidden states of every row, so that later epochs skip the backbone: off, auto
    (exactly, in memory), or a mapping of where, dtype, budget_gb and dir."""
    layers_path: str | None = None
    """Path of the module list of layers, for an architecture in which it is not found."""

    @field_validator("cache", mode="before")
    @classmethod
    def _parse_cache(cls, value: Any) -> Any:
        return read_cache(value)

    @field_validator("side_layers")
    @classmethod
    def _check_side_layers(cls, value: str | list[int]) -> str | list[int]:
        if isinstance(value, str) and value != "all" and not re.fullmatch(r"every_[1-9]\d*", value):
            raise ValueError("write all, every_2 (every second layer, including the last), or a list such as [0, 5]")
        if value == []:
            raise ValueError("is empty; name layers, or leave the key out")
        return value

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return keys that have no effect here, each with the correct setting."""
        # Not whether it is written, since a run's own run.yaml writes every key.
        is_changed = self.downsample_rank != type(self).model_fields["downsample_rank"].default
        if is_changed and self.downsample not in ("adapter", "lora"):
            return {"downsample_rank": f"downsample: {self.downsample} has no inner width; use adapter or lora"}
        return {}


def __getattr__(name: str) -> Any:
    """Import the names that need torch on first access, and register the method with peft."""
    if name not in _LAZY:
        raise AttributeError(name)
    register_qst()
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def register_qst() -> None:
    """Register the method with peft, so that `get_peft_model`, `PeftModel.from_pretrained` and TRL accept it.

    A second call has no effect.

    Raises:
        ModelError: The installed version of peft is not supported.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import register_peft_method

    from utils.adapters.qst.config import QSTConfig, add_peft_type

    if add_peft_type() in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    # Imported after the version check, since the module uses peft's internals.
    from utils.adapters.qst.model import QSTModel

    register_peft_method(name="qst", config_cls=QSTConfig, model_cls=QSTModel, prefix=QSTModel.prefix)


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Add a side network to the model; it and a new head become trainable, all other weights are frozen."""
    from peft import get_peft_model

    from utils.adapters.peft_layout import preserve_quantized
    from utils.adapters.qst.config import QSTConfig

    register_qst()
    refuse_new_tokens("qst", context)
    own = ("reduction_factor", "downsample", "downsample_rank", "side_layers", "mix", "gate", "gate_init",
           "side_head_dim", "side_dropout", "checkpoint_side", "layers_path")  # fmt: skip
    peft_config = QSTConfig(
        task_type=context.task_type,
        modules_to_save=merge_modules_to_save(list_head(model, context), config.modules_to_save),
        revision=context.base_commit,
        **{name: getattr(config, name) for name in own},
    )
    try:
        adapted: Any = get_peft_model(preserve_quantized(model), peft_config)
    except ValueError as error:
        raise ModelError(f"peft.{error}") from error
    keep_float32(adapted, context)
    _start_cache(adapted, config, context)
    return adapted  # get_peft_model wraps the model, and forwards to it


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load a saved side network onto a freshly loaded base."""
    from utils.adapters import peft_layout

    register_qst()
    return peft_layout.load(folder, load_base)


def _start_cache(adapted: Any, config: Config, context: AttachContext) -> None:
    """Open the cache of the backbone's states, if it is enabled and any row will be read again."""
    section = resolve_cache(config.cache)
    if section is None:
        return
    if section.where == "ram" and context.num_epochs <= 1:
        logger.warning("peft.cache: no row is read twice in a single epoch; nothing is cached (where: disk would be)")
        return
    from utils.adapters.qst.backbone import describe_backbone
    from utils.adapters.qst.cache.open_store import open_store
    from utils.adapters.qst.cache.row_store import RowStore

    tuner = adapted.base_model

    def open_cache(num_states: int, hidden_size: int, dtype: Any) -> RowStore:
        identity = describe_backbone(tuner.model, tuner.mix.recorder.wanted) if section.where == "disk" else {}
        return open_store(
            section, identity, num_states, hidden_size, dtype,
            expected_tokens=context.num_tokens, expected_rows=context.num_rows,
        )  # fmt: skip

    tuner.start_replay(open_cache)
