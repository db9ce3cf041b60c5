"""AdaLoRA: low-rank updates whose ranks are allocated among the layers by importance during training.

Source: Zhang et al. 2023, arXiv:2303.10512.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from utils.adapters import peft_layout
from utils.adapters.adapter import AttachContext, LoadBase
from utils.adapters.peft_layout import merge as merge
from utils.adapters.peft_layout import save as save
from utils.adapters.targets import (
    LayersSection,
    choose_layers,
    choose_targets,
    find_layer_conflict,
    list_head,
    merge_modules_to_save,
    refuse_new_tokens,
    warn_of_unadapted_layers,
)
from utils.adapters.training_hooks import TrainingHooks
from utils.config.sections.peft import Limits
from utils.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_ALLOCATIONS = 500  # about as many as in the paper's runs, regardless of the number of steps


class Config(LayersSection):
    """W + B diag(E) A beside frozen weights: rank init_r everywhere at the start, target_r on average at the end."""

    LIMITS: ClassVar[Limits] = Limits(
        sharding=("it ranks weights by their whole gradients, which no process holds then; use lora, or DDP or ZeRO-2"),
        adapter_path="its ranks were allocated by statistics that are not saved; continue by --resume of its run",
    )
    DEFAULT_LEARNING_RATE: ClassVar[float | None] = 1e-2
    ALIASES: ClassVar[dict[str, str]] = {
        **LayersSection.ALIASES, "delta_t": "deltaT", "t_init": "tinit", "t_final": "tfinal",
    }  # fmt: skip

    method: Literal["adalora"] = "adalora"
    init_r: int = Field(12, ge=2)
    """Rank of every update at the start."""
    target_r: int = Field(8, ge=1)
    """Mean rank of the updates at the end; below init_r."""
    tinit: int | None = Field(None, ge=0)
    """Optimizer steps before the first reduction of ranks; null: a tenth of the run."""
    tfinal: int | None = Field(None, ge=0)
    """Optimizer steps at the end with the ranks fixed; null: three tenths of the run."""
    deltaT: int | None = Field(None, ge=1)  # noqa: N815  peft's name
    """Optimizer steps between two allocations; null: 1, or more in runs of over 1,000 steps."""
    beta1: float = Field(0.85, gt=0, lt=1)
    """Smoothing factor of the importance."""
    beta2: float = Field(0.85, gt=0, lt=1)
    """Smoothing factor of the importance's uncertainty."""
    orth_reg_weight: float = Field(0.5, ge=0)
    """Weight of the penalty that keeps A and B orthogonal. It is part of the training loss, is logged separately as
    orthogonal_penalty, and is not part of the evaluation loss."""
    lora_alpha: float = Field(16, gt=0)
    """The update is scaled by lora_alpha / init_r."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the update's input."""

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return impossible layers, and a target_r that is not below init_r, so that there is nothing to allocate."""
        found = find_layer_conflict(self)
        if self.target_r >= self.init_r:
            found["target_r"] = f"must be below init_r ({self.init_r}), found {self.target_r}; use lora for fixed ranks"
        return found

    def schedule(self, num_steps: int) -> dict[str, int]:
        """Return peft's schedule for a run of `num_steps` optimizer steps.

        Raises:
            ConfigError: The schedule leaves no step on which ranks could be reduced.
        """
        tinit = num_steps // 10 if self.tinit is None else self.tinit
        tfinal = num_steps * 3 // 10 if self.tfinal is None else self.tfinal
        if tinit >= num_steps - tfinal:
            message = (
                f"tinit ({tinit}) has to end before tfinal ({tfinal}) begins in a run of {num_steps} optimizer steps; "
                "lower one of them, leave both out, or train longer"
            )
            raise ConfigError([Problem(message, "peft.tinit" if self.tinit else "peft.tfinal")])
        return {
            "total_step": num_steps,
            "tinit": tinit,
            "tfinal": tfinal,
            "deltaT": self.deltaT or max(1, num_steps // _ALLOCATIONS),
        }


def attach(model: PreTrainedModel, config: Config, context: AttachContext) -> PreTrainedModel:
    """Wrap the model with peft; the training hooks reallocate ranks and add the penalty."""
    from peft import AdaLoraConfig
    from peft.utils import TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING as KNOWN

    assert context.num_training_steps > 0, "the schedule needs the number of optimizer steps"
    refuse_new_tokens("adalora", context)
    head = list_head(model, context)
    copied = ("init_r", "target_r", "beta1", "beta2", "orth_reg_weight", "lora_alpha", "lora_dropout", "bias")
    peft_config = AdaLoraConfig(
        task_type=context.task_type,
        **choose_layers(model, config, choose_targets(model, config.target_modules, KNOWN), head),
        exclude_modules=config.exclude_modules,
        modules_to_save=merge_modules_to_save(head, config.modules_to_save),
        revision=context.base_commit,
        **config.schedule(context.num_training_steps),
        **{name: getattr(config, name) for name in copied},
    )
    adapted = peft_layout.wrap(model, peft_config, context, config.target_modules)
    warn_of_unadapted_layers(adapted, config)
    return _remove_penalty(adapted)


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load a saved adapter, with its final ranks, onto a freshly loaded base."""
    return _remove_penalty(peft_layout.load(folder, load_base))


def training_hooks() -> TrainingHooks:
    """Return AdaLoRA's hooks: its penalty, its rank allocation, and the importances for checkpoints."""
    return _AdaLoraHooks()


class _AdaLoraHooks(TrainingHooks):
    keeps_state = True
    penalty_name = "orthogonal_penalty"

    def compute_penalty(self, model: Any) -> torch.Tensor | None:
        """Compute the weighted penalty.

        It is the mean over all A and B of the Frobenius norm of A A^T - I or B^T B - I, times orth_reg_weight.
        """
        import torch

        tuner = model.base_model
        name = tuner.trainable_adapter_name
        weight = tuner.peft_config[name].orth_reg_weight
        if not weight:
            return None
        norms = []
        for key, part in tuner.model.named_parameters():
            if key.endswith((f"lora_A.{name}", f"lora_B.{name}")):
                product = part @ part.T if f"lora_A.{name}" in key else part.T @ part
                norms.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=part.device)))
        return weight * torch.stack([norm.to(norms[0].device) for norm in norms]).mean()

    def after_optimizer_step(self, model: Any, step: int) -> None:
        """Reduce the ranks of the least important layers on schedule; peft's allocator is called only here.

        Until the ranks are final, peft's rank_pattern stays empty, so that a checkpoint holds every rank that is
        trained. (Between two allocations, a rank that was set to zero may grow again.)
        """
        tuner, config = model.base_model, model.active_peft_config
        tuner.update_and_allocate(step)
        if step < config.total_step - config.tfinal:
            config.rank_pattern = None

    def list_state(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the importances that determine which ranks are reduced."""
        allocator = model.base_model.rankallocator
        return {f"{kind}.{name}": part for kind in _IMPORTANCE for name, part in getattr(allocator, kind).items()}

    def describe_state(self, model: Any) -> Any:
        """Return the remaining ranks."""
        return model.active_peft_config.rank_pattern

    def load_state(self, model: Any, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        """Restore the importances, on their weights' devices, and the ranks."""
        devices = {name: part.device for name, part in model.base_model.model.named_parameters()}
        for kind in _IMPORTANCE:
            names = [key.removeprefix(f"{kind}.") for key in tensors if key.startswith(f"{kind}.")]
            found = {name: tensors[f"{kind}.{name}"].to(devices[name]) for name in names}
            setattr(model.base_model.rankallocator, kind, found)
        model.active_peft_config.rank_pattern = facts


def _remove_penalty(adapted: Any) -> Any:
    """Remove the penalty from the forward pass, since the trainer adds it once for each optimizer step.

    peft adds it to `outputs.loss`, which our trainers do not minimize directly, and also adds it in evaluations.
    """
    from peft.tuners.tuners_utils import BaseTuner

    adapted.base_model.forward = types.MethodType(BaseTuner.forward, adapted.base_model)
    return adapted
