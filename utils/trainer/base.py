"""The base of every task's trainer: all changes to transformers' Trainer, in the order of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from packaging.version import Version
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, __version__

from utils.adapters.training_hooks import TrainingHooks, save_training_state
from utils.config.section import Section
from utils.core.errors import UserError
from utils.core.signals import Interrupted, raise_if_interrupted
from utils.generation.model_state import keep_random_state
from utils.trainer.callbacks import RunEvents
from utils.trainer.checkpoint_loading import explain_checkpoint, load_weights, loading_states
from utils.trainer.checkpoint_writing import CheckpointWriter
from utils.trainer.optimization import build_optimizer, build_schedule, set_learning_rates
from utils.trainer.processes import Sums, announce_processes, any_interrupted
from utils.trainer.resume import Resume
from utils.trainer.sampling import build_train_sampler
from utils.trainer.watchdogs import NanGuard

_COUNTS_ALL_STEPS = Version(__version__) < Version("5.19")
"""Whether transformers counts the rows of all sessions' steps as this session's."""


class LoraNsTrainer(Trainer):
    """A Trainer that computes the same numbers however it is stopped, resumed, distributed, or short of disk space.

    A task's trainer extends it alone, or together with one of TRL's, whose methods it reaches by `super()`: `class
    CausalTrainer(LoraNsTrainer, SFTTrainer)`. This class knows nothing of rows or losses. The task's trainer

    - is built by `utils.trainer.building.build_trainer`, which adds callbacks, hooks and learning rates;
    - passes its training loss to `penalize` if it computes it without `super().compute_loss`;
    - adds what it sums over training batches for the log to `sums`, which is saved and resumed, and over an evaluation
      to `eval_sums`, whose totals it turns into metrics in `describe_evaluation`;
    - overrides `_get_train_sampler` and `_get_eval_sampler` if its library orders rows differently (GRPO).

    Args:
        learning_rates: Learning rates of single parameters, by name, for any optimizer.
        **kwargs: As for `transformers.Trainer`, or TRL's.
    """

    optimizer: Any
    lr_scheduler: Any
    on_full_disk: Literal["continue", "stop"] = "continue"
    try_longest: bool | Literal["auto"] = "auto"
    FUSES_LORA: ClassVar[bool] = True
    """Whether LoRA layers may round differently from peft's for speed."""

    def __init__(self, *, learning_rates: Mapping[str, float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learning_rates = dict(learning_rates or {})
        self.hooks = TrainingHooks()
        self.sums, self.eval_sums = Sums(), Sums()
        self.optimizer_plugin: tuple[Any, Section] | None = None
        """The plug-in that training.optim names, and its settings; None: one of transformers' own."""
        self.schedule_plugin: tuple[Any, Section] | None = None
        """The plug-in that lr_scheduler_type names, and its settings."""
        self.restarts: frozenset[int] = frozenset()
        """Optimizer steps after which the schedule restarts."""
        self.row_order: Sampler[int] | None = None
        self.penalties: list[torch.Tensor] = []
        """Penalties of the batches since the last logged step."""
        self.resume = Resume()
        self.guard = NanGuard(self)
        self.writer = CheckpointWriter(self)
        self.epoch_ended = False
        self._is_at_boundary = False  # whether everything due at this step is done
        self.add_callback(RunEvents(self))

    # Start of a run.

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, from a checkpoint if one is given.

        transformers' own limit on checkpoints is off: with a limit of one it would delete the last.
        """
        announce_processes(self.args)
        self.resume = Resume(resume_from_checkpoint)
        if self.resume.source is not None:
            self.resume.read_state()  # before transformers, which does not validate it
        limit = self.writer.limit = self.args.save_total_limit
        self.args.save_total_limit = None
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        self.row_order = build_train_sampler(self.args, self.train_dataset)
        return self.row_order

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        """Keep the order of evaluation rows, in which predictions are written."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        """Let dataloader_drop_last drop training rows only; transformers also drops evaluation and test rows."""
        wanted = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = wanted and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = wanted

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer, and set the parameters' own learning rates before the schedule is built."""
        self.optimizer = self.optimizer or build_optimizer(self)
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        set_learning_rates(optimizer, self.model, self.learning_rates)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the schedule with the plug-in that `lr_scheduler_type` names, or with transformers."""
        if self.lr_scheduler is None and self.schedule_plugin is not None:
            self.lr_scheduler = build_schedule(self, num_training_steps, optimizer)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Resuming from a checkpoint.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with explain_checkpoint(resume_from_checkpoint):
            if not self._load_whole(self.model if model is None else model, resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        if self.resume.source is None:
            return super()._init_training_state(*args, **kwargs)
        before = self.resume.read_state()
        with explain_checkpoint(self.resume.source):
            found = super()._init_training_state(*args, **kwargs)
        self.resume.read_session(self, before)
        return found

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading_states(self, checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with explain_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)

    # Training steps.

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch, unless the run has already ended: transformers would train one more step.

        Sets the epoch of the row order, which transformers does not do through the wrappers that skip batches or shard
        them across processes.
        """
        self.guard.epoch_start = kwargs["epoch"] * kwargs["num_update_steps_per_epoch"]
        ended = self.resume.had_ended or self.control.should_training_stop
        if ended or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if self.row_order is not None and hasattr(self.row_order, "set_epoch"):
            self.row_order.set_epoch(kwargs["epoch"])
        try:
            super()._run_epoch(*args, **kwargs)
        except Interrupted:
            if not self.writer.is_saved and not self._is_only_written():
                self._save_checkpoint(self.model_wrapped, None)
            raise

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the gradients of a batch.

        Raises:
            NotFiniteError: The loss is nan or infinite.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.guard.check_loss(loss)
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss of a batch, plus the adapter's own penalty in training."""
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return (self.penalize(found[0]), *found[1:]) if return_outputs else self.penalize(found)

    def penalize(self, loss: torch.Tensor) -> torch.Tensor:
        """Add the adapter's penalty, if any, to a batch's training loss, in total once per optimizer step."""
        model = self.accelerator.unwrap_model(self.model)
        if not model.training or (penalty := self.hooks.compute_penalty(model)) is None:
            return loss
        if not isinstance(penalty, torch.Tensor):
            raise UserError(f"peft.method: compute_penalty returned {penalty!r}, not a tensor or None")
        num_batches = getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)
        self.penalties.append(penalty.detach())
        return loss + (penalty / num_batches).to(loss.device)  # the losses of a step's batches are summed

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.guard.check_norm(norm)
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and add to a training loss the penalty that it includes."""
        if "loss" in logs and self.penalties:
            logs[self.hooks.penalty_name] = sum(each.item() for each in self.penalties) / len(self.penalties)
            self.penalties.clear()
        super().log(logs, *args, **kwargs)

    # End of a step: log, evaluate, save, and stop if requested.

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._is_at_boundary = False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if not self._ends_epoch() and any_interrupted(self.args):  # an epoch's last step is logged and saved afterwards
            self._is_at_boundary = True
            raise_if_interrupted()

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate without changing the random state of training: an interrupted evaluation is repeated later."""
        with keep_random_state():
            return super()._evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate, and add the metrics of the task's own sums, which do not depend on the batching."""
        sums = self.eval_sums = Sums()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if not sums.is_empty:
            metrics = self.describe_evaluation(*sums.read(self.accelerator))
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def describe_evaluation(self, *totals: float) -> dict[str, float]:
        """Turn the totals of `eval_sums` over all processes into metrics, by name without prefix."""
        return {}

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch, unless the run was asked to stop."""
        if any_interrupted(self.args):
            raise_if_interrupted()
        return super().prediction_step(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Return whether an evaluation is the best so far; those without the metric are not compared."""
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        return f"eval_{name}" in metrics and bool(super()._determine_best_metric(metrics, trial))

    def compare_saved(self, step: int, metrics: dict[str, float]) -> None:
        """Compare an evaluation with the best one, for a step saved before it was evaluated."""
        if self._determine_best_metric(metrics, None):
            self.writer.choose_saved(step)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Write a checkpoint of this step, or log why not; then delete old ones."""
        is_pending = self.control.should_evaluate or (self.args.eval_strategy == "epoch" and self._ends_epoch())
        self.writer.write(lambda partial: self.resume.write_session(self, partial, bool(is_pending)))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self._is_whole:
            folder = Path(output_dir or self.args.output_dir)
            save_training_state(self.hooks, self.accelerator.unwrap_model(self.model), folder)

    # End of a run.

    def _load_best_model(self) -> None:
        if not self._load_whole(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        """Finish training; transformers counts only this session's steps and seconds, this method those of all."""
        if self.resume.totals is not None:
            self._initial_global_step = 0  # the loss is divided by the steps since
        if _COUNTS_ALL_STEPS:
            first_step = 0 if self.resume.totals is not None else self.resume.first_step
            num_train_samples *= (self.state.global_step - first_step) / max(self.state.max_steps, 1)
        return super()._finalize_training(trial, num_train_samples, time.time() - self.resume.seconds)

    @property
    def _is_whole(self) -> bool:
        """Whether each process holds whole tensors; sharded ones are saved in the library's own format only."""
        return not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def _load_whole(self, model: Any, folder: str) -> bool:
        """Load weights if the library would lose some; return whether it did."""
        return self._is_whole and load_weights(model, Path(folder), self.hooks)

    def _ends_epoch(self) -> bool:
        """Return whether this step is the last of its epoch, whose end is still to come."""
        ends = self.control.should_training_stop or self.control.should_epoch_stop
        return not self.epoch_ended and bool(ends or float(self.state.epoch or 0.5).is_integer())

    def _is_only_written(self) -> bool:
        """Return whether the interruption hit generation after the save: its answers are already on disk row by row."""
        saved_now = self.writer.saved is not None and self.writer.saved[0] == self.state.global_step
        return saved_now and not self.control.should_evaluate and not self._is_at_boundary
