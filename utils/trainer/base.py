"""The base of every task's trainer: all that it changes in transformers' Trainer, in the order of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from packaging.version import Version
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, __version__

from utils.adapters.training_hooks import TrainingHooks, save_training_state
from utils.config.section import Section
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

if TYPE_CHECKING:
    import torch

_COUNTS_ALL_STEPS = Version(__version__) < Version("5.19")
"""Whether transformers takes the rows of all steps for those of a session that made some of them."""


class LoraNsTrainer(Trainer):
    """A Trainer that comes to the same numbers however it is stopped, resumed, split over processes, or short of disk.

    A task's trainer stands on it alone, or on it and then on one of TRL's, whose methods it calls as `super()`:
    `class CausalTrainer(LoraNsTrainer, SFTTrainer)`. Nothing here knows what a row or a loss is. The task's trainer

    - is built by `utils.trainer.building.build_trainer`, which gives it callbacks, hooks and learning rates;
    - gives its training loss to `penalize` where it computes it without `super().compute_loss`;
    - adds what it sums over training batches for its log to `sums`, which is saved and resumed, and to `eval_sums` what
      it sums over an evaluation, and turns their totals into metrics in `describe_evaluation`;
    - overrides `_get_train_sampler` and `_get_eval_sampler` where its library orders rows in a way of its own (GRPO).

    Args:
        learning_rates: Of parameters that learn at a rate of their own, by name, whatever the optimizer.
        **kwargs: As for `transformers.Trainer`, or TRL's.
    """

    optimizer: Any
    lr_scheduler: Any
    on_full_disk: Literal["continue", "stop"] = "continue"
    try_longest: bool | Literal["auto"] = "auto"
    FUSES_LORA: ClassVar[bool] = True
    """Whether LoRA's layers may round otherwise than peft's for speed."""

    def __init__(self, *, learning_rates: Mapping[str, float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learning_rates = dict(learning_rates or {})
        self.hooks = TrainingHooks()
        self.sums, self.eval_sums = Sums(), Sums()
        self.optimizer_plugin: tuple[Any, Section] | None = None
        """The plug-in that training.optim names, and its settings; None: one of transformers' own."""
        self.schedule_plugin: tuple[Any, Section] | None = None
        """The same of lr_scheduler_type."""
        self.restarts: frozenset[int] = frozenset()
        """Optimizer steps after which that schedule starts over."""
        self.row_order: Sampler[int] | None = None
        self.penalties: list[torch.Tensor] = []
        """Of the batches since the last logged step."""
        self.resume = Resume()
        self.guard = NanGuard(self)
        self.writer = CheckpointWriter(self)
        self.epoch_ended = False
        self._is_at_boundary = False  # all that was due at this step is done
        self.add_callback(RunEvents(self))

    # The run begins.

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, from a checkpoint where one is given.

        transformers removes no checkpoint itself: with a limit of one it would remove the last.
        """
        announce_processes(self.args)
        self.resume = Resume(resume_from_checkpoint)
        if self.resume.source is not None:
            self.resume.read_state()  # before transformers, which looks at nothing that it reads there
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
        """Keep the order of evaluation rows: predictions are written in it."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        """Let dataloader_drop_last drop rows of training only; transformers drops evaluation and test rows too."""
        wanted = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = wanted and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = wanted

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer and give parameters their own learning rates, before the schedule is made."""
        self.optimizer = self.optimizer or build_optimizer(self)
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        set_learning_rates(optimizer, self.model, self.learning_rates)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the schedule, by the plug-in that `lr_scheduler_type` names or else by transformers."""
        if self.lr_scheduler is None and self.schedule_plugin is not None:
            self.lr_scheduler = build_schedule(self, num_training_steps, optimizer)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # A checkpoint is resumed.

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

    # Steps are made.

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch, unless the run is at its end already: transformers would train one step more.

        The order of rows is set here: transformers does not reach it through the batches that are skipped and those
        of several processes.
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
        """Compute the loss of a batch; an adapter's own penalty is added in training."""
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return (self.penalize(found[0]), *found[1:]) if return_outputs else self.penalize(found)

    def penalize(self, loss: torch.Tensor) -> torch.Tensor:
        """Add what the adapter's own penalty asks for to a batch's training loss, once for each optimizer step."""
        model = self.accelerator.unwrap_model(self.model)
        if not model.training or (penalty := self.hooks.compute_penalty(model)) is None:
            return loss
        num_batches = getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)
        self.penalties.append(penalty.detach())
        return loss + (penalty / num_batches).to(loss.device)  # the losses of a step's batches are summed

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        self.guard.check_norm(norm)
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and beside a training loss the part of it that was the adapter's penalty."""
        if "loss" in logs and self.penalties:
            logs[self.hooks.penalty_name] = sum(each.item() for each in self.penalties) / len(self.penalties)
            self.penalties.clear()
        super().log(logs, *args, **kwargs)

    # A step ends: log, evaluate, save, and stop where that was asked for.

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._is_at_boundary = False
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if not self._ends_epoch() and any_interrupted(self.args):  # else the epoch's end has its own log and save
            self._is_at_boundary = True
            raise_if_interrupted()

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, without drawing from the random numbers of training: it may be cut off, and made up for later."""
        with keep_random_state():
            return super()._evaluate(*args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate; what the task sums over the batches makes metrics that do not depend on how rows were batched."""
        sums = self.eval_sums = Sums()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if not sums.is_empty:
            metrics = self.describe_evaluation(*sums.read(self.accelerator))
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def describe_evaluation(self, *totals: float) -> dict[str, float]:
        """Turn the totals of `eval_sums`, over all processes, into metrics without prefix."""
        return {}

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch, unless the run was asked to stop."""
        if any_interrupted(self.args):
            raise_if_interrupted()
        return super().prediction_step(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare an evaluation with the best one, where it has the metric: others measure the loss, or answers."""
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        return f"eval_{name}" in metrics and bool(super()._determine_best_metric(metrics, trial))

    def compare_saved(self, step: int, metrics: dict[str, float]) -> None:
        """Compare an evaluation with the best one, whose step was saved before it was evaluated."""
        if self._determine_best_metric(metrics, None):
            self.writer.choose_saved(step)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Write a checkpoint of this step, or say why there is none; older ones go when it is in its place."""
        owes = self.control.should_evaluate or (self.args.eval_strategy == "epoch" and self._ends_epoch())
        self.writer.write(lambda partial: self.resume.write_session(self, partial, bool(owes)))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self._is_whole:
            folder = Path(output_dir or self.args.output_dir)
            save_training_state(self.hooks, self.accelerator.unwrap_model(self.model), folder)

    # The run ends.

    def _load_best_model(self) -> None:
        if not self._load_whole(self.model, self.state.best_model_checkpoint):
            super()._load_best_model()

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        """End the training; transformers counts this session's steps and seconds alone, and here all count."""
        if self.resume.totals is not None:
            self._initial_global_step = 0  # the loss is divided by the steps since
        if _COUNTS_ALL_STEPS:
            first_step = 0 if self.resume.totals is not None else self.resume.first_step
            num_train_samples *= (self.state.global_step - first_step) / max(self.state.max_steps, 1)
        return super()._finalize_training(trial, num_train_samples, start_time - self.resume.seconds_before)

    @property
    def knows_all_sessions(self) -> bool:
        """Whether loss and seconds are those of the whole run; a checkpoint of another tool does not say what was."""
        return self.resume.knows_all_sessions

    @property
    def _is_whole(self) -> bool:
        """Whether a process holds every tensor whole; where they are spread, the library's own checkpoints count."""
        return not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

    def _load_whole(self, model: Any, folder: str) -> bool:
        """Load weights where the library's own way would lose something; False: it would not."""
        return self._is_whole and load_weights(model, Path(folder), self.hooks)

    def _ends_epoch(self) -> bool:
        """Tell whether the step that was made is its epoch's last, and the epoch's end is still to come."""
        ends = self.control.should_training_stop or self.control.should_epoch_stop
        return not self.epoch_ended and bool(ends or float(self.state.epoch or 0.5).is_integer())

    def _is_only_written(self) -> bool:
        """Tell whether what was cut off came after the step was saved: answers, which lie row by row on the disk."""
        saved_now = self.writer.saved is not None and self.writer.saved[0] == self.state.global_step
        return saved_now and not self.control.should_evaluate and not self._is_at_boundary
