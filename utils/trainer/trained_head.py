"""Compute a language model's head at trained positions only, skipping positions whose label is -100."""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from utils.adapters.adapter import evaluating
from utils.trainer.chunked_cross_entropy import ChunkedCrossEntropy, ChunkedLogProbs, LossSpec, list_chunks, transform
from utils.trainer.varlen_attention import plain_attention, probing_precision

logger = logging.getLogger(__name__)

_PROBE_TOKENS = 6
_TOLERANCE = 2e-3


@dataclass
class TrainedOutput(ModelOutput):
    """Output of the forward pass with `trained_positions=True`: sums over trained positions, or values at each."""

    loss: torch.Tensor | None = None
    """Sum of the negative log-likelihoods, scalar float32."""
    num_targets: torch.Tensor | None = None
    """Number of trained positions."""
    num_right: torch.Tensor | None = None
    """Number of positions whose label is the most likely token."""
    log_probs: torch.Tensor | None = None
    """With `each=True` instead: the label's log-probability at each position, (n,) in float32, row by row, without
    smoothing or weights."""


def install_trained_head(
    model: Any, label_smoothing: float = 0.0, weigh_by_probability: bool = False, temperature: float = 1.0
) -> None:
    """Extend the model's forward by `trained_positions=True` and `each`, which return a `TrainedOutput`.

    Args:
        model: A causal language model, or a peft model around one.
        label_smoothing: Share of the target spread over the vocabulary, in training.
        weigh_by_probability: Weight tokens by their own probability, in training.
        temperature: Divisor of the logits for log-probabilities with `each`.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    original = plain.forward
    plain_spec = LossSpec(*_read_transform(plain.config.get_text_config()))
    spec = replace(plain_spec, label_smoothing=label_smoothing, weigh_by_probability=weigh_by_probability)

    def score_hidden(self: Any, labels: torch.Tensor, each: bool, *args: Any, **kwargs: Any) -> TrainedOutput:
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False})[0]
        own = spec if self.training else plain_spec
        own = replace(plain_spec, temperature=temperature) if each else own
        return _score_trained(hidden, self.get_output_embeddings(), labels, own, each)

    def score_logits(self: Any, labels: torch.Tensor, each: bool, *args: Any, **kwargs: Any) -> TrainedOutput:
        own = replace(spec, scale=1.0, softcap=None) if self.training else LossSpec()
        own = LossSpec(temperature=temperature) if each else own
        return _score_trained(original(*args, **kwargs).logits, nn.Identity(), labels, own, each)  # already scaled

    _install_forward(plain, original, score_hidden)
    if not _agrees(plain, plain_spec):
        logger.warning(
            "%s computes logits from hidden states in its own way: the full logits are computed, which takes more "
            "time and memory",
            type(plain).__name__,
        )
        _install_forward(plain, original, score_logits)


def _install_forward(model: Any, original: Any, score: Callable[..., TrainedOutput]) -> None:
    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        trained_positions: bool = False,
        each: bool = False,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if not trained_positions:
            return original(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        assert labels is not None, "the loss needs labels"
        return score(self, labels, each, *args, **kwargs)

    model.forward = types.MethodType(forward, model)


def _score_trained(
    hidden: torch.Tensor, head: Any, labels: torch.Tensor, spec: LossSpec, each: bool = False
) -> TrainedOutput:
    """Score the positions before each label that is not -100."""
    following = labels[:, 1:].to(hidden.device)
    trained = following != -100
    states, targets = hidden[:, :-1][trained], following[trained]
    device = getattr(head, "weight", states).device
    states, targets = states.to(device), targets.to(device)
    if each:
        if _is_plain(head):
            return TrainedOutput(log_probs=ChunkedLogProbs.apply(*_autocast(states, head), targets, spec))
        losses = [each for each, _ in _score_chunks(states, head, targets, spec)]
        return TrainedOutput(log_probs=-torch.cat(losses))
    if _is_plain(head):
        total, num_right = ChunkedCrossEntropy.apply(*_autocast(states, head), targets, spec)
    else:
        total, num_right = _score_by_module(states, head, targets, spec)
    return TrainedOutput(total, trained.sum(), num_right)


def _autocast(states: torch.Tensor, head: nn.Linear) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Cast states and weights to the precision that autocast would give a linear layer."""
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
    for losses, right in _score_chunks(states, head, targets, spec):
        total, num_right = total + losses.sum(), num_right + right
    return total, num_right


def _score_chunks(states: torch.Tensor, head: nn.Module, targets: torch.Tensor, spec: LossSpec) -> Iterator[Any]:
    for rows in list_chunks(max(states.shape[0], 1), getattr(head, "out_features", 2**16), states.device):
        yield checkpoint(_score_logits, head, states[rows], targets[rows], spec, use_reentrant=False)


def _score_logits(head: Any, states: torch.Tensor, targets: torch.Tensor, spec: LossSpec) -> Any:
    logits = transform(head(states).float(), spec) / spec.temperature
    log_probs = torch.log_softmax(logits, -1)
    losses = -log_probs.gather(-1, targets[:, None]).squeeze(-1)
    right = (losses.detach() <= -log_probs.detach().amax(-1)).sum()
    if spec.label_smoothing:
        losses = (1 - spec.label_smoothing) * losses - spec.label_smoothing * log_probs.mean(-1)
    if spec.weigh_by_probability:
        losses = losses * torch.exp(-losses.detach())
    return losses, right


def _read_transform(config: Any) -> tuple[float, float | None]:
    """Read the architecture's transformation of the head's output: scale and soft cap."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), getattr(config, "final_logit_softcapping", None)
    divisor = getattr(config, "logits_scaling", None)
    return (1.0 / divisor if divisor else 1.0), getattr(config, "final_logit_softcapping", None)


def _is_plain(head: Any) -> bool:
    """Return whether the head is a single whole matrix that can be read directly."""
    whole = type(head) is nn.Linear and type(head.weight) in (nn.Parameter, torch.Tensor)
    return whole and not hasattr(head.weight, "ds_id") and not head._forward_hooks and not head._forward_pre_hooks


@torch.no_grad()
def _agrees(model: Any, spec: LossSpec) -> bool:
    """Return whether the scores agree with the model's own logits on a few tokens."""
    if any(hasattr(each, "ds_id") or each.is_meta for each in model.parameters()):
        return True  # sharded: the model cannot run before training starts
    embeddings = model.get_input_embeddings().weight
    device = embeddings.device
    ids = torch.arange(_PROBE_TOKENS, device=device)[None] % embeddings.shape[0]
    try:
        with evaluating(model), plain_attention(model), probing_precision(model):
            hidden = model.base_model(input_ids=ids, use_cache=False)[0]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            ours = _score_trained(hidden, model.get_output_embeddings(), ids, spec)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # a body or head of another kind
        return False
    theirs = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum")
    assert ours.loss is not None, "a score holds a loss"
    tolerance = _TOLERANCE if hidden.dtype == torch.float32 else 5e-2
    return bool((ours.loss.to(device) - theirs).abs() <= tolerance * theirs.abs().clamp(min=1))
