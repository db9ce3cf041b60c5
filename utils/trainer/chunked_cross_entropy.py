"""Cross-entropy and log-probabilities of tokens under a language model's head, in chunks without the full logits.

Only one chunk of logits exists at a time. It is turned into its own gradient in place while the loss is summed, so that
the backward pass computes no logits.
Source: the in-forward gradient of Hsu et al. 2024 (Liger Kernel, arXiv:2410.10989), without its kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

CPU_LOGITS = 2**24
"""Number of logits held at once on a CPU: 64 MiB in float32. Larger chunks are not faster."""
_GPU_ROWS = 1024
"""Positions per chunk on a GPU, which reads the whole head for each chunk: smaller chunks would be memory-bound."""
_GPU_SHARE = 32
"""A chunk's logits, in float32 and in the head's precision, take at most 1/32 of a GPU's total memory. Not of the free
memory: a resumed run must divide rows as before."""


@dataclass(frozen=True)
class LossSpec:
    """Transformations of the logits and of their loss."""

    scale: float = 1.0
    """Factor on the head's output (Cohere, Granite)."""
    softcap: float | None = None
    """Soft cap on logits (Gemma 2)."""
    label_smoothing: float = 0.0
    """Share of the target spread over the vocabulary, 0 to 1."""
    temperature: float = 1.0
    """Divisor of the transformed logits."""
    weigh_by_probability: bool = False
    """Weight every token by its own probability: DFT, Wu et al. 2025, arXiv:2508.05629."""


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy of `hidden @ weight.T + bias`; gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        spec: LossSpec,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the loss in float32, and count the targets that are the most likely token.

        `hidden` has shape (n, hidden_size), `weight` (vocabulary, hidden_size), `bias` (vocabulary,), and `targets`
        (n,), without -100.
        """
        wanted = ctx.needs_input_grad
        grads = [
            torch.zeros_like(each, dtype=torch.float32 if each is not hidden else None) if want else None
            for each, want in zip((hidden, weight, bias), wanted, strict=False)
        ]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        num_right = torch.zeros((), dtype=torch.long, device=hidden.device)
        for rows, part, logits, raw in _compute_logits(hidden, weight, bias):
            losses, right, grad = _score(logits, targets[rows], spec, any(wanted[:3]))
            total += losses.sum()
            num_right += right
            if grad is not None:
                _collect(grads, _round_into(raw, grad), part, weight, rows)
        ctx.save_for_backward(*grads)  # gradients of the summed loss: the backward pass only scales them
        ctx.dtypes = [None if each is None else each.dtype for each in (hidden, weight, bias)]
        ctx.mark_non_differentiable(num_right)
        return total, num_right

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, _: Any) -> tuple[Any, ...]:
        """Scale the gradients that the forward pass computed."""
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = [None if each is None else each.mul_(grad_total).to(dtype) for each, dtype in saved]
        return (*grads, None, None)


class ChunkedLogProbs(torch.autograd.Function):
    """Log-probability of each target under `hidden @ weight.T + bias`; arguments as for ChunkedCrossEntropy.

    The forward pass keeps each log-probability's gradient with respect to its hidden state, (n, hidden_size), so that
    the backward pass recomputes logits only if the head itself is trained.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        spec: LossSpec,
    ) -> torch.Tensor:
        """Compute the log-probabilities in float32, shape (n,)."""
        trains_hidden, *trains_head = ctx.needs_input_grad[:3]
        found = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if trains_hidden else None
        for rows, _, logits, raw in _compute_logits(hidden, weight, bias):
            losses, _, grad = _score(logits, targets[rows], spec, trains_hidden)
            found[rows] = -losses
            if slopes is not None and grad is not None:
                slopes[rows] = -(_round_into(raw, grad) @ weight)
        ctx.spec = spec
        ctx.save_for_backward(slopes, *((hidden, weight, bias, targets) if any(trains_head) else ()))
        return found

    @staticmethod
    def backward(ctx: Any, grad_found: torch.Tensor) -> tuple[Any, ...]:
        """Scale the kept gradients; for a trained head recompute the logits, as its gradient sums over targets."""
        slopes, *rest = ctx.saved_tensors
        of_hidden = None if slopes is None else slopes.mul_(grad_found[:, None].to(slopes.dtype))
        if not rest:
            return of_hidden, None, None, None, None
        hidden, weight, bias, targets = rest
        grads = [
            torch.zeros_like(each, dtype=torch.float32) if want else None
            for each, want in zip((weight, bias), ctx.needs_input_grad[1:3], strict=True)
        ]
        for rows, part, logits, raw in _compute_logits(hidden, weight, bias):
            grad = _score(logits, targets[rows], ctx.spec, True)[-1]
            assert grad is not None, "asked for"
            _collect([None, *grads], _round_into(raw, grad.mul_(-grad_found[rows, None])), part, weight, rows)
        of_head = [None if g is None else g.to(each.dtype) for g, each in zip(grads, (weight, bias), strict=True)]
        return of_hidden, *of_head, None, None


def _compute_logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield each chunk's positions, hidden states, logits in float32, and logits in the head's precision.

    All chunks reuse one buffer: allocating it anew takes a fifth of the product's time.
    """
    chunks = list_chunks(hidden.shape[0], weight.shape[0], weight.device)
    place = weight.new_empty((min(hidden.shape[0], chunks[0].stop) if chunks else 0, weight.shape[0]))
    in_float32 = place if place.dtype == torch.float32 else torch.empty_like(place, dtype=torch.float32)
    for rows in chunks:
        part = hidden[rows].to(weight.dtype)
        raw = place[: len(part)]
        if bias is None:
            torch.mm(part, weight.t(), out=raw)
        else:
            torch.addmm(bias, part, weight.t(), out=raw)
        yield rows, part, raw if in_float32 is place else in_float32[: len(part)].copy_(raw), raw


def _round_into(raw: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Cast a gradient to the head's precision, into the buffer of the logits no longer needed."""
    return grad if grad.dtype == raw.dtype else raw.copy_(grad)


def _score(
    logits: torch.Tensor, targets: torch.Tensor, spec: LossSpec, with_grad: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the losses of one chunk, (n,), the count of correct targets, and its gradient, in place of the logits."""
    logits = transform(logits, spec)
    capped = logits.clone() if spec.softcap is not None and with_grad else None
    if spec.temperature != 1.0:
        logits = logits.div_(spec.temperature)
    mean = logits.mean(-1) if spec.label_smoothing else None
    top = logits.amax(-1, keepdim=True)
    at_target = logits.gather(-1, targets[:, None])
    right = (at_target >= top).sum()
    grad = torch.softmax(logits, -1, out=logits)  # in place: the probabilities
    # The largest probability is at least 1/vocabulary, so its logarithm is accurate, unlike those of tiny ones.
    log_norm = (top - grad.amax(-1, keepdim=True).log()).squeeze(-1)
    losses = log_norm - at_target.squeeze(-1)
    weights = torch.exp(-losses) if spec.weigh_by_probability else None
    share = spec.label_smoothing
    if mean is not None:  # mean over the vocabulary of -log p: log_norm minus the mean logit
        losses = (1 - share) * losses + share * (log_norm - mean)
    weighed = losses if weights is None else losses * weights
    if not with_grad:
        return weighed, right, None
    grad.scatter_add_(-1, targets[:, None], torch.full_like(at_target, share - 1.0))  # minus the target's share
    if share:
        grad.sub_(share / grad.shape[-1])
    if weights is not None:
        grad.mul_(weights[:, None])  # the weight itself is held constant, as in DFT
    if capped is not None:
        assert spec.softcap is not None
        grad.mul_(1 - (capped / spec.softcap) ** 2)  # derivative of softcap * tanh(x / softcap)
    factor = spec.scale / spec.temperature
    return weighed, right, grad.mul_(factor) if factor != 1.0 else grad


def _collect(
    grads: list[torch.Tensor | None], grad: torch.Tensor, part: torch.Tensor, weight: torch.Tensor, rows: slice
) -> None:
    """Add one chunk's share to the gradients of hidden states, weight and bias."""
    of_hidden, of_weight, of_bias = grads
    if of_hidden is not None:
        of_hidden[rows] = grad @ weight
    if of_weight is not None:
        if grad.dtype == torch.float32:
            of_weight.addmm_(grad.t(), part)
        elif rows.start == 0:
            of_weight.copy_(grad.t() @ part)  # adding across precisions takes a pass more over the vocabulary
        else:
            of_weight.add_(grad.t() @ part)
    if of_bias is not None:
        of_bias.add_(grad.sum(0))


def transform(logits: torch.Tensor, spec: LossSpec) -> torch.Tensor:
    """Apply the architecture's transformation to the head's output."""
    if spec.scale != 1.0:
        logits = logits * spec.scale
    return logits if spec.softcap is None else spec.softcap * torch.tanh(logits / spec.softcap)


def list_chunks(num_rows: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Divide positions into chunks within the limits on logits held at once."""
    if device.type == "cuda":
        limit = torch.cuda.get_device_properties(device).total_memory // _GPU_SHARE
        size = min(_GPU_ROWS, limit // (6 * vocabulary))
    else:
        size = CPU_LOGITS // vocabulary
    size = max(1, size)
    return [slice(start, start + size) for start in range(0, num_rows, size)]
