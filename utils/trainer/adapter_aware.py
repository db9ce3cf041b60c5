"""What both trainers do for methods that are more than weights: they call the method's hooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.training_hooks import TrainingHooks, load_training_state, save_training_state
from utils.trainer.callbacks.adapter_hooks import AdapterHooksCallback
from utils.trainer.checkpoint_weights import load_plain_checkpoint, require_adapter_checkpoint

if TYPE_CHECKING:
    import torch


class AdapterAware:
    """Mixed into a Trainer, before it in the list of bases."""

    if TYPE_CHECKING:
        args: Any
        accelerator: Any
        state: Any
        model: Any
        is_deepspeed_enabled: bool
        is_fsdp_enabled: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._penalties: list[torch.Tensor] = []
        self._hooks = TrainingHooks()

    def use_hooks(self, hooks: TrainingHooks) -> None:
        """Call a method's hooks from now on."""
        self._hooks = hooks
        self.add_callback(AdapterHooksCallback(hooks))  # type: ignore[attr-defined]

    def penalize(self, loss: torch.Tensor) -> torch.Tensor:
        """Add what the adapter's own penalty asks for to a training loss, once for each optimizer step.

        Args:
            loss: Of one batch; those of a step are summed.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not model.training or (penalty := self._hooks.compute_penalty(model)) is None:
            return loss
        num_batches = getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)
        self._penalties.append(penalty.detach())
        return loss + (penalty / num_batches).to(loss.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and beside a training loss the part of it that was the adapter's penalty."""
        if "loss" in logs and self._penalties:
            logs[self._hooks.penalty_name] = sum(each.item() for each in self._penalties) / len(self._penalties)
            self._penalties.clear()
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    @property
    def _is_whole(self) -> bool:
        """Whether a process holds every tensor whole; where they are spread, the library's own checkpoints count."""
        return not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        if self._is_whole:
            save_training_state(
                self._hooks, self.accelerator.unwrap_model(self.model), Path(output_dir or self.args.output_dir)
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._load_whole(self.model if model is None else model, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        if not self._load_whole(self.model, Path(self.state.best_model_checkpoint)):
            super()._load_best_model()  # type: ignore[misc]

    def _load_whole(self, model: Any, folder: Path) -> bool:
        """Load a checkpoint where the library's own way would lose something; False: that way is fine.

        Raises:
            ModelError: The checkpoint lacks tensors that were trained.
        """
        if not self._is_whole:
            return False
        if not hasattr(model, "peft_config"):
            return load_plain_checkpoint(model, folder)
        if load_training_state(self._hooks, model, folder):
            return True
        require_adapter_checkpoint(model, folder)
        return False
