"""peft models that save their adapter as plain LoRA for the unmodified base, whatever its initialization.

An initialization that subtracts s * B0 @ A0 from the base trains W - s * B0 @ A0 + s * B @ A. On the original W, that
is LoRA of twice the rank: A stacked on A0, and B beside -B0. The conversion is lossless: checkpoints are saved the same
way, and loaded by splitting the matrices into halves.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from peft import LoraConfig, PeftModelForCausalLM, PeftModelForSequenceClassification, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights
from peft.utils.other import transpose

from utils.core.errors import CheckError

ADAPTER = "default"
_MATRIX = re.compile(rf"\.lora_(?:embedding_)?([AB])\.{ADAPTER}(?=\.|$)")


class _PlainSavingMixin:
    """Mixin that comes before a peft model among a class's bases.

    `start` holds A0 and B0 on the CPU by state dict key; it is empty if the base was not modified.
    """

    peft_config: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start: dict[str, torch.Tensor] = {}

    def keep_start(self) -> None:
        """Keep copies of the current matrices, which the initialization subtracted from the base."""
        state = self.state_dict()  # type: ignore[attr-defined]  # peft's method, beside this mixin
        self.start = {key: each.detach().cpu().clone() for key, each in state.items() if _MATRIX.search(key)}

    def save_pretrained(self, save_directory: str, *args: Any, **kwargs: Any) -> None:
        """Save the adapter as plain LoRA, at twice the rank if the base was modified."""
        original = self.peft_config[ADAPTER]
        state = kwargs.pop("state_dict", None) or self.state_dict()  # type: ignore[attr-defined]  # peft's method, beside this mixin
        self.peft_config[ADAPTER] = self._plain_config(original)
        try:
            super().save_pretrained(save_directory, *args, state_dict=self._convert(state), **kwargs)  # type: ignore[misc]  # peft's method, beside this mixin
        finally:
            self.peft_config[ADAPTER] = original

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint of this adapter, adjusting the base to the one that the checkpoint was trained on."""
        if adapter_name != ADAPTER or not self.start:
            return super().load_adapter(model_id, adapter_name, *args, **kwargs)  # type: ignore[misc]  # peft's method, beside this mixin
        weights = load_peft_weights(str(model_id), device="cpu")
        start = {key: _take_half(weights, key, shape.shape) for key, shape in self.start.items()}
        self._set_base(start)
        return set_peft_model_state_dict(self, weights, adapter_name=ADAPTER)

    def _plain_config(self, original: LoraConfig) -> LoraConfig:
        plain = copy.deepcopy(original)
        plain.init_lora_weights = True
        plain.eva_config = plain.corda_config = plain.lora_ga_config = None
        if self.start:
            # Keep the scale, alpha / r or alpha / sqrt(r), at twice the rank.
            growth = 2**0.5 if plain.use_rslora else 2
            plain.r, plain.lora_alpha = plain.r * 2, plain.lora_alpha * growth
            plain.rank_pattern = {key: rank * 2 for key, rank in (plain.rank_pattern or {}).items()}
            plain.alpha_pattern = {key: alpha * growth for key, alpha in (plain.alpha_pattern or {}).items()}
        return plain

    def _convert(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Append the start, with its sign changed in B, to the trained matrices."""
        converted = dict(state)
        for key, start in self.start.items():
            is_a = _is_a(key)
            now = state[key]
            part = start.to(now.device, now.dtype)
            converted[key] = torch.cat([now, part if is_a else -part], dim=0 if is_a else 1)
        return converted

    @torch.no_grad()
    def _set_base(self, start: dict[str, torch.Tensor]) -> None:
        """Replace this process's start in the base by another one, as another machine's SVD may differ."""
        for name, layer in self.named_modules():  # type: ignore[attr-defined]  # peft's method, beside this mixin
            keys = [f"{name}.lora_{part}.{ADAPTER}.weight" for part in "AB"]
            if not isinstance(layer, LoraLayer) or keys[0] not in start:
                continue
            if all(torch.equal(start[key], self.start[key]) for key in keys):
                continue
            weight = layer.get_base_layer().weight
            # The base is W - s B0 A0 with our own start, which is added back before the other one is subtracted.
            own, other = ({key: each[key].to(weight.device).float() for key in keys} for each in (self.start, start))
            change = layer.scaling[ADAPTER] * (own[keys[1]] @ own[keys[0]] - other[keys[1]] @ other[keys[0]])
            weight.data = (weight.data.float() + transpose(change, getattr(layer, "fan_in_fan_out", False))).to(
                weight.dtype
            )
        self.start = start


class LoraInitClassifier(_PlainSavingMixin, PeftModelForSequenceClassification):
    """A classifier with LoRA whose initialization is converted on saving."""


class LoraInitLanguageModel(_PlainSavingMixin, PeftModelForCausalLM):
    """A language model with LoRA whose initialization is converted on saving."""


def _is_a(key: str) -> bool:
    found = _MATRIX.search(key)
    assert found is not None, "the start holds LoRA's matrices only"
    return found.group(1) == "A"


def _take_half(weights: dict[str, torch.Tensor], key: str, shape: torch.Size) -> torch.Tensor:
    """Replace a matrix of a file by its trained half, and return the start from the other half.

    Raises:
        CheckError: The file has another rank.
    """
    name = _MATRIX.sub(lambda found: found.group(0).removesuffix(f".{ADAPTER}"), key)
    axis = 0 if _is_a(key) else 1
    rank, whole = shape[axis], weights.get(name)
    if whole is None or whole.shape[axis] != 2 * rank:
        raise CheckError(f"the checkpoint does not hold this run's adapter: {name} is not of rank {2 * rank}")
    now, start = whole.split(rank, dim=axis)
    weights[name] = now.contiguous()
    return start.clone() if axis == 0 else -start
