"""Muon for the trained matrices and AdamW for other parameters, such as biases, norms and embeddings.

Muon updates a matrix by its orthogonalized momentum (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/),
as implemented in torch. One learning rate suits both if Muon's updates are scaled to AdamW's (Liu et al. 2025,
arXiv:2502.16982).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from utils.config.section import Section

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainingArguments


class Config(Section):
    """Fields that `training.optim: muon` adds to `training:`; AdamW uses adam_beta1, adam_beta2 and adam_epsilon."""

    muon_momentum: float = Field(0.95, ge=0, lt=1)
    """optim: muon: momentum of the matrices' gradients."""
    muon_nesterov: bool = True
    """optim: muon: use Nesterov momentum."""
    muon_ns_steps: int = Field(5, ge=1, lt=100)
    """optim: muon: number of Newton-Schulz steps that orthogonalize the momentum."""
    muon_adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """optim: muon: match_rms_adamw scales the updates to the size of AdamW's, so that its learning rates and weight
    decay apply; original is the scale of the first publication, for learning rates about ten times as high."""


def build_optimizer(
    model: PreTrainedModel, groups: list[dict[str, Any]], args: TrainingArguments, config: Config
) -> torch.optim.Optimizer:
    """Build the optimizer.

    Args:
        model: Used to find which matrices are embeddings.
        groups: The trained parameters, as torch takes them: {"params": [...], "weight_decay": 0.1}.
        args: Learning rate and AdamW's settings.
        config: Muon's own settings.
    """
    import torch

    from utils.optimizers.joined import JoinedOptimizer

    embedded = {
        id(weight)
        for module in model.modules()
        if "embed" in type(module).__name__.lower() or isinstance(module, torch.nn.Embedding)
        for weight in module.parameters(recurse=False)
    }

    def is_matrix(parameter: torch.nn.Parameter) -> bool:
        return parameter.ndim == 2 and id(parameter) not in embedded

    matrices = [{**group, "params": [each for each in group["params"] if is_matrix(each)]} for group in groups]
    others = [{**group, "params": [each for each in group["params"] if not is_matrix(each)]} for group in groups]
    adjust = config.muon_adjust_lr
    parts: list[torch.optim.Optimizer] = []
    if any(group["params"] for group in matrices):
        parts.append(
            torch.optim.Muon(
                [group for group in matrices if group["params"]],
                lr=args.learning_rate,
                momentum=config.muon_momentum,
                nesterov=config.muon_nesterov,
                ns_steps=config.muon_ns_steps,
                adjust_lr_fn=adjust,
            )
        )
    if any(group["params"] for group in others):
        betas = (args.adam_beta1, args.adam_beta2)
        kept = [group for group in others if group["params"]]
        parts.append(torch.optim.AdamW(kept, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon))
    return JoinedOptimizer(parts)
