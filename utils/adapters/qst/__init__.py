"""QST, quantized side tuning: a narrow trained network beside a frozen backbone that no gradient passes through.

Source: Zhang et al. 2024, arXiv:2401.07159 (ACL 2024). `QSTConfig` and `QSTModel` are peft's side of it.
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
    """How hidden states are brought to that width: adapter (low rank, SiLU, layer norm), lora (low rank), linear,
    maxpool or avgpool (without parameters)."""
    downsample_rank: int = Field(16, ge=1)
    """Inner width of adapter and lora."""
    side_layers: str | list[int] = "all"
    """Backbone layers with a block beside them: all, every_2, every_4 and so on, or their numbers from 0."""
    mix: Literal["residual", "paper", "sigmoid"] = "residual"
    """residual: h + up(g), starts as the pretrained model bit for bit; paper: alpha h + (1 - alpha) up(g) with
    learnable alpha from 1; sigmoid: the same with sigmoid(alpha), as in the authors' code."""
    gate: Literal["scalar", "vector"] = "scalar"
    """One gate per side layer, or one per dimension."""
    gate_init: float = 0.0
    """Value of a gate before the sigmoid: 0 mixes both inputs of a block in equal parts."""
    side_head_dim: int | None = Field(None, ge=2)
    """Dimensions of an attention head of the side network; null: as the backbone's."""
    side_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout behind attention and MLP of the side blocks."""
    checkpoint_side: bool = False
    """Recompute the side blocks in the backward pass: less memory, more time."""
    cache: CacheChoice = "off"
    """Whether the backbone's hidden states of every row are kept, so that later epochs skip the backbone: off, auto
    (exactly, in memory), or a mapping of where, dtype, budget_gb and dir."""
    layers_path: str | None = None
    """Path of the list of layers, for an architecture in which it is not found."""

    @field_validator("cache", mode="before")
    @classmethod
    def _readable_cache(cls, value: Any) -> Any:
        return read_cache(value)

    @field_validator("side_layers")
    @classmethod
    def _known_layers(cls, value: str | list[int]) -> str | list[int]:
        if isinstance(value, str) and value != "all" and not re.fullmatch(r"every_[1-9]\d*", value):
            raise ValueError("write all, every_2 (every second layer, the last among them), or a list such as [0, 5]")
        if value == []:
            raise ValueError("is empty; name layers, or leave the key out")
        return value

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Find keys that have no effect here, each with what is right."""
        # Not whether it is written: a run's own run.yaml writes every key.
        is_changed = self.downsample_rank != type(self).model_fields["downsample_rank"].default
        if is_changed and self.downsample not in ("adapter", "lora"):
            return {"downsample_rank": f"downsample: {self.downsample} has no inner width; use adapter or lora"}
        return {}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, and make it known to peft."""
    if name not in _LAZY:
        raise AttributeError(name)
    register_qst()
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def register_qst() -> None:
    """Make peft know the method: `get_peft_model`, `PeftModel.from_pretrained` and TRL then take it as any other.

    A second call changes nothing.

    Raises:
        ModelError: The installed peft is one that this was not tested with.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import register_peft_method

    from utils.adapters.qst.config import QSTConfig, add_peft_type

    if add_peft_type() in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    # Only now: the model reaches into peft, and an untested peft may lack what it reaches for.
    from utils.adapters.qst.model import QSTModel

    register_peft_method(name="qst", config_cls=QSTConfig, model_cls=QSTModel, prefix=QSTModel.prefix)


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Put a side network beside the model; it and a new head become trainable, all else is frozen."""
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
    return adapted  # type: ignore[no-any-return]  # get_peft_model wraps it, and forwards to it


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Put a saved side network beside a freshly loaded base."""
    from utils.adapters import peft_layout

    register_qst()
    return peft_layout.load(folder, load_base)


def _start_cache(adapted: Any, config: Config, context: AttachContext) -> None:
    """Keep the backbone's states where that is asked for and anything will be read again."""
    section = resolve_cache(config.cache)
    if section is None:
        return
    if section.where == "ram" and context.num_epochs <= 1:
        logger.warning("peft.cache: in a single epoch no row is read again; nothing is kept (where: disk would be)")
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
