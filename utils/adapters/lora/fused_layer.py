"""LoRA's linear layer, with a forward and backward pass that save memory traffic over autograd's.

peft computes `W x + s * B(A x)` term by term: B's product is written, scaled and added, and in the backward pass the
two gradients of x, through W and through A, are added. Here B's product is accumulated into W's, s scales only the
small matrices, and A's gradient of x is accumulated into W's. The results equal peft's up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn.functional import linear


class FusedLinear(Linear):
    """peft's LoRA layer over a frozen `nn.Linear`; evaluations and special cases are left to peft."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the layer's output; `x` has shape (..., in_features)."""
        if args or kwargs or not self._is_plain():
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        base = self.get_base_layer()
        weights = (base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.weight.dtype
        result: torch.Tensor = _LoraProduct.apply(x, *weights, self.scaling[name], dtype)
        return result

    def _is_plain(self) -> bool:
        """Return whether this is training of a plain `W x + s * B(A x)` in a single precision."""
        names = [each for each in self.active_adapters if each in self.lora_A]
        if not self.training or self.disable_adapters or self.merged or [*self.active_adapters] != names[:1]:
            return False
        (name,) = names
        base, down, up = self.get_base_layer(), self.lora_A[name], self.lora_B[name]
        drops = not isinstance(self.lora_dropout[name], nn.Identity)
        is_trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        if drops or is_trained or up.bias is not None or torch.compiler.is_compiling():
            return False
        mixed = torch.is_autocast_enabled(base.weight.device.type)
        return mixed or len({each.weight.dtype for each in (base, down, up)}) == 1


def fuse_lora_layers(model: nn.Module) -> int:
    """Make the model's plain LoRA layers compute with `FusedLinear`, and return their number.

    The layers keep their parameters and hooks, so peft finds, saves and merges them as before.
    """
    found = [each for each in model.modules() if type(each) is Linear]
    plain = [each for each in found if type(each.get_base_layer()) is nn.Linear and not each.lora_variant]
    for layer in plain:
        layer.__class__ = FusedLinear
    return len(plain)


class _LoraProduct(torch.autograd.Function):
    """`W x + bias + s * B(A x)` in the precision `dtype`; W, of shape (out, in), and its bias are frozen."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  each is one operand
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Compute the output; `down` is A, of shape (r, in), and `up` is B, of shape (out, r)."""
        ctx.shape, ctx.scale, ctx.dtypes = x.shape, scale, (x.dtype, down.dtype, up.dtype)
        with torch.autocast(x.device.type, enabled=False):
            rows, weight, down, up = (each.to(dtype) for each in (x.reshape(-1, x.shape[-1]), weight, down, up))
            inner = linear(rows, down)
            result = linear(rows, weight, None if bias is None else bias.to(dtype))
            result.addmm_(inner, up.t(), alpha=scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B that are needed, each in its own precision."""
        rows, inner, weight, down, up = ctx.saved_tensors
        of_x, of_down, of_up = ctx.dtypes
        grad = grad.reshape(-1, grad.shape[-1])
        of_inner = (grad @ up).mul_(ctx.scale)
        grad_x = grad_down = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(of_inner, down).view(ctx.shape).to(of_x)
        if ctx.needs_input_grad[3]:
            grad_down = (of_inner.t() @ rows).to(of_down)
        if ctx.needs_input_grad[4]:
            grad_up = (grad.t() @ inner).mul_(ctx.scale).to(of_up)
        return grad_x, None, None, grad_down, grad_up, None, None
