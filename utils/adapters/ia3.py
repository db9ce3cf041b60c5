"""IA3: vectors that rescale keys, values and the feed-forward layers' inputs; among the smallest adapters.

Source: Liu et al. 2022, arXiv:2205.05638.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator

from utils.adapters.adapter import AttachContext
from utils.adapters.peft_layout import load as load
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save
from utils.adapters.peft_layout import wrap
from utils.adapters.targets import (
    TargetsSection,
    choose_targets,
    list_head,
    merge_modules_to_save,
    refuse_new_tokens,
    split_names,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Key, value and the second feed-forward layer, as in the paper, for architectures that peft does not map.
_TARGETS = {
    "albert": ["key", "value", "ffn_output"],
    "distilbert": ["k_lin", "v_lin", "lin2"],
    "modernbert": ["Wqkv", "mlp.Wo"],
    "electra": ["key", "value", "output.dense"],
    "xlm-roberta": ["key", "value", "output.dense"],
    "phi3": ["qkv_proj", "down_proj"],
    "olmo2": ["k_proj", "v_proj", "down_proj"],
    "smollm3": ["k_proj", "v_proj", "down_proj"],
}
_FEEDFORWARD = ("ffn_output", "lin2", "mlp.Wo", "output.dense", "down_proj")


class Config(TargetsSection):
    """A trained vector, starting at ones, scales each target's output, or the input of a feed-forward layer."""

    DEFAULT_LEARNING_RATE: ClassVar[float | None] = 3e-2

    method: Literal["ia3"] = "ia3"
    target_modules: str | list[str] | None = None
    """Module names, a regular expression, or `all-linear`; null: key, value and the second feed-forward layer."""
    feedforward_modules: str | list[str] | None = None
    """The target_modules whose input, not output, is rescaled; null: the feed-forward layers."""

    _split = field_validator("feedforward_modules", mode="before")(split_names)

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return feed-forward modules that are not among the targets."""
        both = (self.target_modules, self.feedforward_modules)
        if all(isinstance(each, list) for each in both):
            idle = [name for name in self.feedforward_modules or [] if name not in (self.target_modules or [])]
            if idle:
                return {"feedforward_modules": f"{', '.join(idle)} is not among target_modules; add it there"}
        return {}


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Wrap the model with peft; the vectors and the head become trainable."""
    from peft import IA3Config
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

    refuse_new_tokens("ia3", context)
    head = list_head(model, context)
    targets = choose_targets(model, config.target_modules, KNOWN, _TARGETS)
    peft_config = IA3Config(
        task_type=context.task_type,
        target_modules=targets,
        feedforward_modules=_choose_feedforward(config, targets),
        exclude_modules=config.exclude_modules,
        modules_to_save=merge_modules_to_save(head, config.modules_to_save),
        revision=context.base_commit,
    )
    return wrap(model, peft_config, context, config.target_modules)


def _choose_feedforward(config: Config, targets: str | list[str] | None) -> str | list[str] | None:
    """Choose the modules whose inputs are rescaled: as written, as peft maps the architecture (None), or by name."""
    if config.feedforward_modules is not None or targets is None:
        return config.feedforward_modules
    return [name for name in targets if name in _FEEDFORWARD] if isinstance(targets, list) else []
