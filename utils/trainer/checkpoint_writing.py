"""Write checkpoints atomically: to a temporary folder, flushed, then renamed, so that a full disk damages none."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import ExportableState

from utils.core.library_errors import is_full_disk
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
from utils.trainer.failures import DiskFullError, format_size, measure_free
from utils.trainer.watchdogs import require_finite_weights

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

_SLACK = 1_000_000
"""Bytes besides the tensors: the tokenizer's files, the state, partially filled blocks."""


class CheckpointWriter:
    """Writes the checkpoints of one trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.limit: int | None = None
        """Maximum number of checkpoints to keep during training."""
        self.saved: tuple[int, int] | None = None
        """Step of the last complete checkpoint, and the length of the log at that time."""
        self._best_saved: tuple[Any, int | None] = (None, None)
        """Metric and step of the best checkpoint on disk."""

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint holds all progress so far."""
        state = self._trainer.state
        return self.saved == (state.global_step, len(state.log_history))

    def write(self, write_session: Callable[[Path], None]) -> None:
        """Write a checkpoint of this step, or log why not; then delete old ones.

        `write_session` writes the state that transformers does not keep into a folder.

        Raises:
            DiskFullError: The disk is full, and the trainer's `on_full_disk` is `stop`.
            NotFiniteError: A weight is not finite.
        """
        trainer, state, args = self._trainer, self._trainer.state, self._trainer.args
        require_finite_weights(trainer)
        target = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        partial = find_partial(target.parent, state.global_step)
        trainer.store_flos()
        before = state.best_model_checkpoint
        # All processes write, and all need to know if one of their disks is full.
        failures = gather_lists([self._write_partial(partial, target, write_session)])
        if not any(failures):
            publish = (lambda: publish_checkpoint(partial, target)) if args.should_save else (lambda: None)
            failures = gather_lists([_try_on_disk(target.parent, publish)])
        if not any(failures) and args.local_process_index == 0 and partial.exists():
            publish_checkpoint(partial, target)  # this machine does not share a disk with the main process
        if failure := next((each for each in failures if each), None):
            shutil.rmtree(partial, ignore_errors=True)
            state.best_model_checkpoint = before
            self._report_failure(target, failure)
            return
        self.saved = state.global_step, len(state.log_history)
        self._best_saved = state.best_metric, state.best_global_step
        self.rotate()

    def rotate(self) -> None:
        """Delete checkpoints other than the best one, this step's, and those within `save_total_limit`."""
        trainer, state, args = self._trainer, self._trainer.state, self._trainer.args
        if args.should_save:
            limit = self.limit if trainer.is_in_train else args.save_total_limit
            now = f"checkpoint-{state.global_step}"
            rotate_checkpoints(Path(args.output_dir), limit, [state.best_model_checkpoint, now])

    def choose_saved(self, step: int) -> None:
        """Make a step that was saved before its evaluation the best one; the state already has its metric."""
        state = self._trainer.state
        state.best_global_step = step
        self._point_at_best(Path(self._trainer.args.output_dir) / f"checkpoint-{step}")
        self._best_saved = state.best_metric, step

    def forget_best(self) -> None:
        """Reset the best checkpoint, to be chosen anew."""
        state = self._trainer.state
        state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        self._best_saved = None, None

    def _write_partial(self, partial: Path, target: Path, write_session: Callable[[Path], None]) -> str | None:
        """Write all files to the temporary folder; return an explanation if the disk is full."""
        run = target.parent
        if self._trainer.args.should_save:
            clear_leftovers(run)
        self._trainer.accelerator.wait_for_everyone()
        free, needed = measure_free(run), self._estimate_size(run)
        if free < needed:
            return f"{format_size(free)} are free, about {format_size(needed)} are needed"
        return _try_on_disk(run, lambda: self._write_files(partial, target, write_session))

    def _write_files(self, partial: Path, target: Path, write_session: Callable[[Path], None]) -> None:
        """Write what transformers' own `_save_checkpoint` writes, in its order."""
        trainer, args = self._trainer, self._trainer.args
        partial.mkdir(parents=True, exist_ok=True)
        trainer.save_model(str(partial), _internal_call=True)
        self._point_at_best(target)
        if not args.save_only_model:
            trainer._save_optimizer_and_scheduler(str(partial))
            trainer._save_scaler(str(partial))
            trainer._save_rng_state(str(partial))
        write_session(partial)
        if args.should_save:
            if (resolved := target.parent / "run.yaml").is_file():
                shutil.copyfile(resolved, partial / RUN_COPY)
            self._collect_callback_states()
            trainer.state.save_to_json(str(partial / STATE))

    def _point_at_best(self, target: Path) -> None:
        """Set the path of the best checkpoint, which may be the one being written."""
        state = self._trainer.state
        if self._trainer.args.save_strategy == "no" or state.best_global_step is None:  # 0: before the first step
            return
        best = target.with_name(f"checkpoint-{state.best_global_step}")
        if best == target or best.exists():
            state.best_model_checkpoint = str(best)

    def _collect_callback_states(self) -> None:
        trainer, states = self._trainer, dict[str, Any]()
        for each in (*trainer.callback_handler.callbacks, trainer.control):
            if isinstance(each, ExportableState):
                states.setdefault(type(each).__name__, []).append(each.state())
        trainer.state.stateful_callbacks = {
            name: found[0] if len(found) == 1 else found for name, found in states.items()
        }

    def _estimate_size(self, run: Path) -> int:
        """Estimate a checkpoint's bytes by the run's last one, else by its contents."""
        args = self._trainer.args
        if not args.should_save:
            return 0
        known = [each for each in find_checkpoints(run) if (each / MANIFEST).is_file()]
        if known:
            return measure_checkpoint(known[-1])
        trained = sum(p.numel() * p.element_size() for p in self._trainer.model.parameters() if p.requires_grad)
        return int(trained * (1 if args.save_only_model else 3)) + _SLACK  # Adam keeps two numbers per weight

    def _report_failure(self, target: Path, failure: str) -> None:
        """Report that this step has no checkpoint; an unsaved best step is reset to the one before."""
        state, run = self._trainer.state, target.parent
        state.best_metric, state.best_global_step = self._best_saved
        kept = find_checkpoints(run)
        stays = f"{kept[-1].name} stays the last one" if kept else "there is none yet"
        text = f"{target.name} is not written, the disk of {run} is full: {failure}; {stays}"
        if self._trainer.on_full_disk == "stop":
            raise DiskFullError(
                f"{text}; free some space, then --resume (training.on_full_disk: continue would keep training)"
            )
        logger.warning("%s; training continues (training.on_full_disk: stop would end it)", text)


def _try_on_disk(run: Path, write: Callable[[], None]) -> str | None:
    """Call `write`; return an explanation if the disk is full."""
    try:
        write()
    except Exception as error:  # tokenizers raises nothing narrower
        if not is_full_disk(error):
            raise
        return f"{format_size(measure_free(run))} are free"
    return None
