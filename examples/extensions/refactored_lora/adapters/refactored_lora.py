"""LoRA that is refactored at every restart of the learning rate.

During training A and B grow unevenly: a few directions of B A hold most of its norm, and factors of very different
norms learn at very different speeds. At each restart B A is written as U S V^T, its SVD truncated to the rank r, and

    A = sqrt(S / s) V^T        B = U sqrt(S / s)        lora_alpha = lora_alpha * s        with s the largest of S,

so that the layer's output stays the same, both factors are balanced with norm at most 1, and a layer's scale is its
alpha. The optimizer's states of A and B belong to the old factors and are reset to zero; the schedule's warm-up
(training.lr_scheduler_type: restarts) keeps the first steps afterwards small. Each layer's alpha is saved in
adapter_config.json as peft's alpha_pattern, so that plain peft loads the adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.adapters import lora
from lora_ns.adapters.lora import attach as attach
from lora_ns.adapters.lora import load as load
from lora_ns.adapters.lora import merge as merge
from lora_ns.adapters.lora import save as save
from lora_ns.adapters.training_hooks import TrainingHooks, reset_moments

if TYPE_CHECKING:
    import torch


class Config(lora.Config):
    """LoRA's own fields."""

    method: Literal["refactored_lora"] = "refactored_lora"  # in place of lora's


def training_hooks() -> TrainingHooks:
    """Return the hooks: the action at a restart, and the state to checkpoint."""
    return _Hooks()


class _Hooks(TrainingHooks):
    keeps_state = True

    def on_learning_rate_restart(self, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Refactor every layer's update."""
        for name, layer in _layers(model):
            factors = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
            if (size := refactor(*factors)) is not None:
                _set_alpha(model, name, layer, layer.lora_alpha["default"] * size)
                reset_moments(optimizer, factors)

    def describe_state(self, model: Any) -> dict[str, float]:
        """Return the alpha of each layer."""
        return {name: layer.lora_alpha["default"] for name, layer in _layers(model)}

    def load_state(self, model: Any, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        """Restore the alphas."""
        for name, layer in _layers(model):
            _set_alpha(model, name, layer, facts[name])


def refactor(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """Balance two factors in place, keeping their product up to a scale.

    Args:
        a: Shape (r, in).
        b: Shape (out, r).

    Returns:
        The scale that turns the new product into the old one; None if the product is zero, and nothing was changed.
    """
    import torch

    with torch.no_grad():
        # The SVD of B A by those of two r x r matrices: B = Q_b R_b, A^T = Q_a R_a, so B A = Q_b (R_b R_a^T) Q_a^T.
        q_b, r_b = torch.linalg.qr(b.double())
        q_a, r_a = torch.linalg.qr(a.double().T)
        u, s, vt = torch.linalg.svd(r_b @ r_a.T)
        if not s[0] > 0:
            return None
        root = (s / s[0]).sqrt()
        b.copy_(q_b @ u * root)
        a.copy_(root[:, None] * (vt @ q_a.T))
        return float(s[0])


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Return the layers that LoRA adapts by their names in the base, as in peft's alpha_pattern."""
    for name, module in model.get_base_model().named_modules():
        if "default" in getattr(module, "lora_A", {}):
            yield name, module


def _set_alpha(model: Any, name: str, layer: Any, alpha: float) -> None:
    scaling = layer.scaling["default"] / layer.lora_alpha["default"]  # 1 / r, or 1 / sqrt(r)
    layer.lora_alpha["default"], layer.scaling["default"] = alpha, scaling * alpha
    model.active_peft_config.alpha_pattern[name] = alpha
