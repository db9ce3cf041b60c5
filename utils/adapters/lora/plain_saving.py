"""peft models whose adapter is saved as plain LoRA for an untouched base, however it started.

An initialisation that takes s * B0 @ A0 out of the base trains W - s * B0 @ A0 + s * B @ A. On the untouched W that is
LoRA of twice the rank: A and A0 one below the other, B and -B0 side by side. Nothing is lost by it: checkpoints are
saved so too, and read back by taking the halves apart.
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


class _SavedPlain:
    """Stands before a peft model among a class's bases.

    `start` holds A0 and B0 on the CPU by their names in the state dict; empty where the base is as it was.
    """

    peft_config: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start: dict[str, torch.Tensor] = {}

    def keep_start(self) -> None:
        """Keep the matrices as they are now: what the initialisation took out of the base."""
        state = self.state_dict()  # type: ignore[attr-defined]  # a mixin
        self.start = {key: each.detach().cpu().clone() for key, each in state.items() if _MATRIX.search(key)}

    def save_pretrained(self, save_directory: str, *args: Any, **kwargs: Any) -> None:
        """Save the adapter as plain LoRA, at twice the rank where the base was changed."""
        started = self.peft_config[ADAPTER]
        state = kwargs.pop("state_dict", None) or self.state_dict()  # type: ignore[attr-defined]
        self.peft_config[ADAPTER] = self._plain_config(started)
        try:
            super().save_pretrained(save_directory, *args, state_dict=self._convert(state), **kwargs)  # type: ignore[misc]
        finally:
            self.peft_config[ADAPTER] = started

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint of this very adapter; the base is set to what the checkpoint was trained on."""
        if adapter_name != ADAPTER or not self.start:
            return super().load_adapter(model_id, adapter_name, *args, **kwargs)  # type: ignore[misc]
        weights = load_peft_weights(str(model_id), device="cpu")
        start = {key: _take_half(weights, key, shape.shape) for key, shape in self.start.items()}
        self._set_base(start)
        return set_peft_model_state_dict(self, weights, adapter_name=ADAPTER)

    def _plain_config(self, started: LoraConfig) -> LoraConfig:
        plain = copy.deepcopy(started)
        plain.init_lora_weights = True
        plain.eva_config = plain.corda_config = plain.lora_ga_config = None
        if self.start:
            # The scale must stay: alpha / r, or alpha / sqrt(r), at twice the rank.
            growth = 2**0.5 if plain.use_rslora else 2
            plain.r, plain.lora_alpha = plain.r * 2, plain.lora_alpha * growth  # type: ignore[assignment]
            plain.rank_pattern = {key: rank * 2 for key, rank in (plain.rank_pattern or {}).items()}
            plain.alpha_pattern = {key: alpha * growth for key, alpha in (plain.alpha_pattern or {}).items()}
        return plain

    def _convert(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Put the start, taken away again, behind what was trained."""
        converted = dict(state)
        for key, start in self.start.items():
            is_a = _is_a(key)
            now = state[key]
            part = start.to(now.device, now.dtype)
            converted[key] = torch.cat([now, part if is_a else -part], dim=0 if is_a else 1)
        return converted

    @torch.no_grad()
    def _set_base(self, start: dict[str, torch.Tensor]) -> None:
        """Change the base from this process's own start to another, which another machine's SVD may have given."""
        for name, layer in self.named_modules():  # type: ignore[attr-defined]
            keys = [f"{name}.lora_{part}.{ADAPTER}.weight" for part in "AB"]
            if not isinstance(layer, LoraLayer) or keys[0] not in start:
                continue
            if all(torch.equal(start[key], self.start[key]) for key in keys):
                continue
            weight = layer.get_base_layer().weight
            # The base is W - s B0 A0 with our own start: that comes back, and the other one is taken out.
            own, other = ({key: each[key].to(weight.device).float() for key in keys} for each in (self.start, start))
            change = layer.scaling[ADAPTER] * (own[keys[1]] @ own[keys[0]] - other[keys[1]] @ other[keys[0]])
            weight.data = (weight.data.float() + transpose(change, getattr(layer, "fan_in_fan_out", False))).to(
                weight.dtype
            )
        self.start = start


class LoraInitClassifier(_SavedPlain, PeftModelForSequenceClassification):
    """A classifier with LoRA from an initialisation of its own."""


class LoraInitLanguageModel(_SavedPlain, PeftModelForCausalLM):
    """A language model with LoRA from an initialisation of its own."""


def _is_a(key: str) -> bool:
    found = _MATRIX.search(key)
    assert found is not None, "the start holds LoRA's matrices only"
    return found.group(1) == "A"


def _take_half(weights: dict[str, torch.Tensor], key: str, shape: torch.Size) -> torch.Tensor:
    """Cut a matrix of a file back to what was trained, and give the start that stood behind it.

    Raises:
        CheckError: The file is not of this rank.
    """
    name = _MATRIX.sub(lambda found: found.group(0).removesuffix(f".{ADAPTER}"), key)
    axis = 0 if _is_a(key) else 1
    rank, whole = shape[axis], weights.get(name)
    if whole is None or whole.shape[axis] != 2 * rank:
        raise CheckError(f"the checkpoint does not hold this run's adapter: {name} is not of rank {2 * rank}")
    now, start = whole.split(rank, dim=axis)
    weights[name] = now.contiguous()
    return start.clone() if axis == 0 else -start
