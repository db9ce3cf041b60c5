"""Checkpoints that are whole or not there: written beside their place, flushed, renamed; a full disk spoils none."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from utils.core.errors import LoraNsError
from utils.evaluation.processes import gather_lists
from utils.trainer.checkpoint_files import (
    MANIFEST,
    RUN_COPY,
    STATE,
    clear_leftovers,
    find_checkpoints,
    find_partial,
    measure_checkpoint,
    publish_checkpoint,
    rotate_checkpoints,
)
from utils.trainer.full_disk import DiskFullError, format_size, is_full_disk, measure_free

if TYPE_CHECKING:
    from transformers import TrainerState

logger = logging.getLogger(__name__)

_SLACK = 1_000_000
"""Bytes beside the tensors: the tokenizer's files, the state, blocks that are not filled."""


class NotFiniteError(LoraNsError):
    """A loss, a gradient or a weight is no number."""


class AtomicCheckpoints:
    """What our trainers share: how a checkpoint is written. Stands before a `transformers.Trainer` among the bases."""

    args: Any
    state: TrainerState
    model: Any
    accelerator: Any
    callback_handler: Any
    control: Any

    on_full_disk: Literal["continue", "stop"] = "continue"
    _limit: int | None = None
    _saved: tuple[int, int] | None = None
    """Step of the last whole checkpoint, and how many lines the log had then."""
    _best_saved: tuple[Any, int | None] = (None, None)
    """Metric and step of the best checkpoint that is on the disk."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; transformers removes no checkpoint itself: with a limit of one it would remove the last."""
        self._limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super().train(*args, **kwargs)  # type: ignore[misc]  # a mixin
        finally:
            self.args.save_total_limit = self._limit

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Write a checkpoint of this step, or say why there is none; older ones go when it is in its place.

        Raises:
            DiskFullError: There is no room, and `on_full_disk` is `stop`.
            NotFiniteError: The weights are not fit to be saved.
        """
        self._require_finite_weights()
        run = Path(self.args.output_dir)
        target = run / f"checkpoint-{self.state.global_step}"
        partial = find_partial(run, self.state.global_step)
        self.store_flos()  # type: ignore[attr-defined]  # the Trainer's
        before = self.state.best_model_checkpoint
        failures = gather_lists([self._write_partial(run, partial, target)])
        if not any(failures):
            failures = gather_lists([self._publish(partial, target)])
        if not any(failures) and self.args.local_process_index == 0 and partial.exists():
            publish_checkpoint(partial, target)  # this machine has a disk of its own
        if failure := next((each for each in failures if each), None):
            shutil.rmtree(partial, ignore_errors=True)
            self.state.best_model_checkpoint = before
            self._tell_failure(run, target, failure)
            return
        self._saved = self.state.global_step, len(self.state.log_history)
        self._best_saved = self.state.best_metric, self.state.best_global_step
        self.rotate_checkpoints()

    def rotate_checkpoints(self) -> None:
        """Delete checkpoints that are neither the best one, nor this step's, nor within `save_total_limit`."""
        if self.args.should_save:
            run = Path(self.args.output_dir)
            limit = self._limit if self.is_in_train else self.args.save_total_limit  # type: ignore[attr-defined]
            now = f"checkpoint-{self.state.global_step}"
            rotate_checkpoints(run, limit, [self.state.best_model_checkpoint, now])

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare an evaluation with the best one, where it has the metric: others measure the loss, or answers."""
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        return f"eval_{name}" in metrics and bool(super()._determine_best_metric(metrics, trial))  # type: ignore[misc]

    def compare_saved(self, step: int, metrics: dict[str, float]) -> None:
        """Compare an evaluation with the best one, whose step was saved before it was evaluated."""
        if self._determine_best_metric(metrics, None):
            self.state.best_global_step = step
            self._point_at_best(Path(self.args.output_dir) / f"checkpoint-{step}")
            self._best_saved = self.state.best_metric, step

    def forget_best(self) -> None:
        """Let the best checkpoint be chosen anew."""
        self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None
        self._best_saved = None, None

    def _require_finite_weights(self) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise NotFiniteError(
                    f"step {self.state.global_step}: the trained weight {name} is no longer finite, so no checkpoint "
                    "is written of it; the learning rate is too large: lower training.learning_rate and start over"
                )

    def _write_partial(self, run: Path, partial: Path, target: Path) -> str | None:
        """Write all files beside the checkpoint's place; gives what went wrong where that is a full disk."""
        if self.args.should_save:
            clear_leftovers(run)
        self.accelerator.wait_for_everyone()
        free, needed = measure_free(run), self._estimate_size(run)
        if free < needed:
            return f"{format_size(free)} are free, about {format_size(needed)} are needed"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            self._write_files(partial, target)
        except Exception as error:  # tokenizers raises nothing narrower
            if not is_full_disk(error):
                raise
            return f"{format_size(measure_free(run))} are free"
        return None

    def _write_files(self, partial: Path, target: Path) -> None:
        """Write what transformers' own `_save_checkpoint` writes, in its order."""
        trainer: Any = self
        trainer.save_model(str(partial), _internal_call=True)
        self._point_at_best(target)
        if not self.args.save_only_model:
            trainer._save_optimizer_and_scheduler(str(partial))
            trainer._save_scaler(str(partial))
            trainer._save_rng_state(str(partial))
        self._write_session(partial)
        if self.args.should_save:
            if (resolved := target.parent / "run.yaml").is_file():
                shutil.copyfile(resolved, partial / RUN_COPY)
            self._collect_callback_states()
            self.state.save_to_json(str(partial / STATE))

    def _point_at_best(self, target: Path) -> None:
        """Name the best checkpoint, which may be the one that is being written."""
        if self.args.save_strategy == "no" or self.state.best_global_step is None:  # 0: before the first step
            return
        best = target.with_name(f"checkpoint-{self.state.best_global_step}")
        if best == target or best.exists():
            self.state.best_model_checkpoint = str(best)

    def _collect_callback_states(self) -> None:
        from transformers.trainer_callback import ExportableState

        states: dict[str, Any] = {}
        for each in (*self.callback_handler.callbacks, self.control):
            if isinstance(each, ExportableState):
                states.setdefault(type(each).__name__, []).append(each.state())
        self.state.stateful_callbacks = {name: found[0] if len(found) == 1 else found for name, found in states.items()}

    def _write_session(self, partial: Path) -> None:
        """Write what transformers does not keep; see `ExactResume`."""

    def _publish(self, partial: Path, target: Path) -> str | None:
        """Put the checkpoint in its place, by the process that wrote it; gives what went wrong, as above."""
        if self.args.should_save:
            try:
                publish_checkpoint(partial, target)
            except OSError as error:
                if not is_full_disk(error):
                    raise
                return f"{format_size(measure_free(target.parent))} are free"
        return None

    def _estimate_size(self, run: Path) -> int:
        """Estimate a checkpoint's bytes by the last one of the run, else by what it has to hold."""
        if not self.args.should_save:
            return 0
        known = [each for each in find_checkpoints(run) if (each / MANIFEST).is_file()]
        if known:
            return measure_checkpoint(known[-1])
        trained = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        return int(trained * (1 if self.args.save_only_model else 3)) + _SLACK

    def _tell_failure(self, run: Path, target: Path, failure: str) -> None:
        """Say that there is no checkpoint of this step; a best step that was not saved is forgotten."""
        self.state.best_metric, self.state.best_global_step = self._best_saved
        kept = find_checkpoints(run)
        stays = f"{kept[-1].name} stays the last one" if kept else "there is none yet"
        text = f"{target.name} is not written, the disk of {run} is full: {failure}; {stays}"
        if self.on_full_disk == "stop":
            raise DiskFullError(f"{text}; make room, then --resume (training.on_full_disk: continue would go on)")
        logger.warning("%s; training goes on (training.on_full_disk: stop would end it)", text)
