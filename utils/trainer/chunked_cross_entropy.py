"""The language model's head and loss at trained positions only, in chunks: whole logits are never held.

A position whose label is -100 costs nothing, and of the others only a chunk of logits exists at a time: each is
turned into its own gradient in place while the loss is summed, so that the backward pass computes no logits again.
Source: the in-forward gradient of Hsu et al. 2024 (Liger Kernel, arXiv:2410.10989), here without its kernels.
"""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from utils.trainer.varlen_attention import plain_attention, probing_precision

logger = logging.getLogger(__name__)

CHUNK_ELEMENTS = 2**23
"""Logits held at once: 32 MiB in float32."""
_PROBE_TOKENS = 6
_TOLERANCE = 2e-3


@dataclass
class TrainedOutput(ModelOutput):  # type: ignore[misc]
    """What the forward gives with `trained_positions=True`: sums over the trained positions."""

    loss: torch.Tensor | None = None
    """Sum of the negative log-likelihoods, scalar float32."""
    num_targets: torch.Tensor | None = None
    """Trained positions."""
    num_right: torch.Tensor | None = None
    """Positions whose label is the most likely token."""


@dataclass(frozen=True)
class LossSpec:
    """What is done to logits and their loss."""

    scale: float = 1.0
    """Factor on the head's output (Cohere, Granite)."""
    softcap: float | None = None
    """Soft cap on logits (Gemma 2)."""
    label_smoothing: float = 0.0
    """Share of the target spread over the vocabulary, 0 to 1."""
    weigh_by_probability: bool = False
    """Weigh every token by its own probability: DFT, Wu et al. 2025, arXiv:2508.05629."""


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy of `hidden @ weight.T + bias`; gradients are computed in the forward pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        spec: LossSpec,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the loss, in float32, and count the targets that are the most likely token.

        `hidden` has shape (n, hidden_size), `weight` (vocabulary, hidden_size), `bias` (vocabulary,), and `targets`
        (n,), none of them -100.
        """
        wanted = ctx.needs_input_grad
        grads = [
            torch.zeros_like(each, dtype=torch.float32 if each is not hidden else None) if want else None
            for each, want in zip((hidden, weight, bias), wanted, strict=False)
        ]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        num_right = torch.zeros((), dtype=torch.long, device=hidden.device)
        for rows in _chunks(hidden.shape[0], weight.shape[0]):
            part = hidden[rows].to(weight.dtype)
            raw = functional.linear(part, weight, bias)
            loss, right, grad = _score(raw, targets[rows], spec, any(wanted[:3]))
            total += loss
            num_right += right
            if grad is not None:
                _collect(grads, grad.to(weight.dtype), part, weight, rows)
        ctx.save_for_backward(*grads)  # those of the loss's sum: the backward pass has only to scale them
        ctx.dtypes = [None if each is None else each.dtype for each in (hidden, weight, bias)]
        ctx.mark_non_differentiable(num_right)
        return total, num_right

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, _: Any) -> tuple[Any, ...]:  # type: ignore[override]
        """Scale the gradients that the forward pass left."""
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = [None if each is None else each.mul_(grad_total).to(dtype) for each, dtype in saved]
        return (*grads, None, None)


def install_trained_head(model: Any, label_smoothing: float = 0.0, weigh_by_probability: bool = False) -> None:
    """Let the model's forward take `trained_positions=True` and give a `TrainedOutput`; else it is as before.

    Args:
        model: A causal language model, or a peft model around one.
        label_smoothing: Share of the target spread over the vocabulary, in training.
        weigh_by_probability: Weigh tokens by their own probability, in training.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    original = plain.forward
    plain_spec = LossSpec(*_read_transform(plain.config.get_text_config()))
    spec = replace(plain_spec, label_smoothing=label_smoothing, weigh_by_probability=weigh_by_probability)

    def score_hidden(self: Any, labels: torch.Tensor, *args: Any, **kwargs: Any) -> TrainedOutput:
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False})[0]
        return _score_trained(hidden, self.get_output_embeddings(), labels, spec if self.training else plain_spec)

    def score_logits(self: Any, labels: torch.Tensor, *args: Any, **kwargs: Any) -> TrainedOutput:
        own = replace(spec, scale=1.0, softcap=None) if self.training else LossSpec()  # the model has applied its own
        return _score_trained(original(*args, **kwargs).logits, nn.Identity(), labels, own)

    _install_forward(plain, original, score_hidden)
    if not _agrees(plain, plain_spec):
        logger.warning(
            "%s turns hidden states into logits in a way of its own: its whole logits are computed, which takes more "
            "time and memory",
            type(plain).__name__,
        )
        _install_forward(plain, original, score_logits)


def _install_forward(model: Any, original: Any, score: Callable[..., TrainedOutput]) -> None:
    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, trained_positions: bool = False, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        if not trained_positions:
            return original(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        assert labels is not None, "the loss needs labels"
        return score(self, labels, *args, **kwargs)

    model.forward = types.MethodType(forward, model)


def _score_trained(hidden: torch.Tensor, head: Any, labels: torch.Tensor, spec: LossSpec) -> TrainedOutput:
    """Score the positions before each label that is not -100."""
    following = labels[:, 1:].to(hidden.device)
    trained = following != -100
    states, targets = hidden[:, :-1][trained], following[trained]
    device = getattr(head, "weight", states).device
    states, targets = states.to(device), targets.to(device)
    if _is_plain(head):
        total, num_right = ChunkedCrossEntropy.apply(*_autocast(states, head), targets, spec)
    else:
        total, num_right = _score_by_module(states, head, targets, spec)
    return TrainedOutput(total, trained.sum(), num_right)


def _autocast(states: torch.Tensor, head: nn.Linear) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Bring states and weights to the precision that autocast would give a linear layer."""
    kind = states.device.type
    if not torch.is_autocast_enabled(kind):
        return states, head.weight, head.bias
    dtype = torch.get_autocast_dtype(kind)
    return states.to(dtype), head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype)


def _score_by_module(
    states: torch.Tensor, head: nn.Module, targets: torch.Tensor, spec: LossSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score through the head's own forward, for heads that are more than a matrix: adapted, quantized, sharded."""
    total = states.new_zeros((), dtype=torch.float32)
    num_right = torch.zeros((), dtype=torch.long, device=states.device)
    for rows in _chunks(max(states.shape[0], 1), getattr(head, "out_features", 2**16)):
        loss, right = checkpoint(_score_logits, head, states[rows], targets[rows], spec, use_reentrant=False)
        total, num_right = total + loss, num_right + right
    return total, num_right


def _score_logits(head: Any, states: torch.Tensor, targets: torch.Tensor, spec: LossSpec) -> Any:
    logits = _transform(head(states).float(), spec)
    log_probs = torch.log_softmax(logits, -1)
    losses = -log_probs.gather(-1, targets[:, None]).squeeze(-1)
    right = (losses.detach() <= -log_probs.detach().amax(-1)).sum()
    if spec.label_smoothing:
        losses = (1 - spec.label_smoothing) * losses - spec.label_smoothing * log_probs.mean(-1)
    if spec.weigh_by_probability:
        losses = losses * torch.exp(-losses.detach())
    return losses.sum(), right


def _score(
    raw: torch.Tensor, targets: torch.Tensor, spec: LossSpec, with_grad: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Sum the loss of one chunk, and turn its logits into their gradient in place."""
    logits = _transform(raw.float(), spec)
    capped = logits.clone() if spec.softcap is not None and with_grad else None
    mean = logits.mean(-1) if spec.label_smoothing else None
    top = logits.amax(-1, keepdim=True)
    at_target = logits.gather(-1, targets[:, None])
    exponents = logits.sub_(top).exp_()  # in place from here on: a chunk's logits are held once
    norm = exponents.sum(-1, keepdim=True)
    log_norm = (norm.log() + top).squeeze(-1)
    losses = log_norm - at_target.squeeze(-1)
    right = (at_target >= top).sum()
    weights = torch.exp(-losses) if spec.weigh_by_probability else None
    share = spec.label_smoothing
    if mean is not None:  # the mean over the vocabulary of -log p: log_norm less the mean logit
        losses = (1 - share) * losses + share * (log_norm - mean)
    total = (losses if weights is None else losses * weights).sum()
    if not with_grad:
        return total, right, None
    grad = exponents.div_(norm)  # the probabilities; less the target's share they are the gradient
    grad.scatter_add_(-1, targets[:, None], torch.full_like(at_target, share - 1.0))
    if share:
        grad.sub_(share / grad.shape[-1])
    if weights is not None:
        grad.mul_(weights[:, None])  # the weight itself is held constant, as in DFT
    if capped is not None:
        assert spec.softcap is not None
        grad.mul_(1 - (capped / spec.softcap) ** 2)  # the derivative of softcap * tanh(x / softcap)
    return total, right, grad.mul_(spec.scale) if spec.scale != 1.0 else grad


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
        else:
            of_weight.add_(grad.t() @ part)
    if of_bias is not None:
        of_bias.add_(grad.sum(0))


def _transform(logits: torch.Tensor, spec: LossSpec) -> torch.Tensor:
    if spec.scale != 1.0:
        logits = logits * spec.scale
    return logits if spec.softcap is None else spec.softcap * torch.tanh(logits / spec.softcap)


def _read_transform(config: Any) -> tuple[float, float | None]:
    """Read what an architecture does to the head's output: scale and soft cap."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), getattr(config, "final_logit_softcapping", None)
    divisor = getattr(config, "logits_scaling", None)
    return (1.0 / divisor if divisor else 1.0), getattr(config, "final_logit_softcapping", None)


def _is_plain(head: Any) -> bool:
    """Tell whether the head is one whole matrix that can be read directly."""
    whole = type(head) is nn.Linear and type(head.weight) in (nn.Parameter, torch.Tensor)
    return whole and not hasattr(head.weight, "ds_id") and not head._forward_hooks and not head._forward_pre_hooks


def _chunks(num_rows: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, start + size) for start in range(0, num_rows, size)]


@torch.no_grad()
def _agrees(model: Any, spec: LossSpec) -> bool:
    """Compare with the model's own logits on a few tokens."""
    if any(hasattr(each, "ds_id") or each.is_meta for each in model.parameters()):
        return True  # sharded: nothing can be run before training starts
    embeddings = model.get_input_embeddings().weight
    device = embeddings.device
    was_training, _ = model.training, model.eval()
    ids = torch.arange(_PROBE_TOKENS, device=device)[None] % embeddings.shape[0]
    try:
        with plain_attention(model), probing_precision(model):
            hidden = model.base_model(input_ids=ids, use_cache=False)[0]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            ours = _score_trained(hidden, model.get_output_embeddings(), ids, spec)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # a body or head of another make
        return False
    finally:
        model.train(was_training)
    theirs = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum")
    assert ours.loss is not None, "a score holds a loss"
    tolerance = _TOLERANCE if hidden.dtype == torch.float32 else 5e-2
    return bool((ours.loss.to(device) - theirs).abs() <= tolerance * theirs.abs().clamp(min=1))
