"""Score generated answers during and after training, and track the best step."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.evaluation.describing import COMBINED, name_score
from utils.evaluation.files import FINAL_RESULTS, write_object
from utils.evaluation.history import Entry, History, build_entry, open_history
from utils.evaluation.processes import find_rank, run_on_first, run_together, share_from_first
from utils.evaluation.score import SetScore
from utils.tasks.sft.evaluation_rules import is_loss
from utils.tasks.sft.set_scoring import SetScorer
from utils.trainer.callbacks import EarlyStoppingCallback
from utils.trainer.checkpoint_files import find_checkpoint, link_best, mark_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from utils.config.run_config import RunConfig
    from utils.trainer.base import LoraNsTrainer


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalScores:
    """Scores of the kept weights, and the evaluations before."""

    scores: dict[str, SetScore] = field(default_factory=dict)
    """Scores by the set's label."""
    errors: dict[str, str] = field(default_factory=dict)
    """Reasons of sets without a score, by label."""
    step: int = 0
    """The step whose weights were kept."""
    history: History | None = None
    """Evaluations during training; None: there were none."""
    chosen_by: str | None = None
    """The metric that chose that step; None: it was the last one."""


class GeneratingCallback(TrainerCallback):
    """Score evaluation sets every `evaluation.steps` steps without affecting the training that follows.

    A step is saved before it is evaluated, so that a run killed during the evaluation resumes there. The trainer treats
    the scores as evaluation metrics, as it does the loss: for comparing, keeping the best checkpoint and early
    stopping. `leakage`, the sets' overlap with the training rows, is written to the history.
    """

    def __init__(
        self, trainer: LoraNsTrainer, scorer: SetScorer, settings: RunConfig, leakage: Sequence[Any] = ()
    ) -> None:
        self._trainer = trainer
        self._scorer = scorer
        self._sets = scorer.sets
        self._evaluation = settings.evaluation
        self._folder = Path(settings.training.output_dir).expanduser()
        self._leakage = list(leakage)
        self._history: History | None = None
        self._saved_step: int | None = None
        self._waiting: tuple[int, bool] | None = None  # step to evaluate once saved; whether saved only for that
        self._is_periodic = bool(self._sets) and self._evaluation.is_periodic
        self._saves = self._is_periodic and trainer.args.save_strategy != "no"
        self._section = settings.training
        self._metric = trainer.args.metric_for_best_model
        self._chooses = self._is_periodic and self._metric is not None and not is_loss(settings)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate before the first step if asked for, or what a killed session did not finish."""
        steps, step = self._evaluation.steps, state.global_step
        if steps is not None and steps > state.max_steps:
            logger.warning("evaluation.steps: %d has no effect: the run has %d steps", steps, state.max_steps)
        if not self._is_periodic:
            return
        self._history = self._open_history(step)
        is_last = step >= state.max_steps
        if self._chooses:
            self._restore_best(state, control)
        if self._history.find(step) is not None:
            self._restore_log(state)
            self._keep_checkpoints()
        elif self._is_due(step) or (is_last and self._evaluation.at_end):
            if self._saves and step == 0:
                self._trainer._save_checkpoint(self._trainer.model, None)
                mark_checkpoint(self._folder, 0, only_for_evaluation=True)
            self._evaluate(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the step if it is due for evaluation."""
        if self._is_periodic and self._is_due(state.global_step):
            self._save_and_evaluate(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate the last step, whatever ended the training."""
        has_news = control.should_evaluate or control.should_log
        if self._saved_step == state.global_step and control.should_save and not has_news:
            control.should_save = False  # a kill during a second save would damage the existing checkpoint
            self._mark(state.global_step, False)
        if self._is_periodic and self._evaluation.at_end and control.should_training_stop:
            self._save_and_evaluate(state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate the step just saved if it is due, then remove checkpoints no longer needed."""
        if not self._saves:
            return
        step = state.global_step
        self._mark(step, only_for_evaluation=self._waiting == (step, True))
        self._saved_step = step
        if self._waiting is not None:
            self._evaluate(state, control)
        else:
            self._keep_checkpoints()

    def _is_due(self, step: int) -> bool:
        steps = self._evaluation.steps
        return bool(self._evaluation.at_start) if step == 0 else steps is not None and step % steps == 0

    def _save_and_evaluate(self, state: TrainerState, control: TrainerControl) -> None:
        assert self._history is not None
        if self._history.find(state.global_step) is not None:
            return
        if not self._saves or self._saved_step == state.global_step:
            self._evaluate(state, control)
        else:
            self._waiting = state.global_step, not control.should_save
            control.should_save = True

    def _open_history(self, step: int) -> History:
        scorer = self._evaluation.truthfulqa.scorer
        return run_on_first(lambda: open_history(self._folder, scorer, self._leakage, self._sets, step))

    def _evaluate(self, state: TrainerState, control: TrainerControl) -> None:
        """Evaluate all sets; scores go to the history, and to the log as eval_<set>_<metric>."""
        assert self._history is not None
        self._waiting = None
        step = state.global_step
        entry = build_entry(step, self._scorer.score_step(step), self._sets)
        self._history.add(entry)
        history = self._history
        run_on_first(lambda: history.write(self._folder))
        due = control.should_log, control.should_evaluate  # logging resets these flags of the step itself
        if flat := _flatten(entry):
            self._trainer.log(flat)
            self._trainer.callback_handler.on_evaluate(self._trainer.args, state, control, flat)
        control.should_log, control.should_evaluate = due
        if not self._saves or self._find_saved([step]):  # an unsaved step (full disk) cannot be the best
            self._trainer.compare_saved(step, flat)
        self._keep_checkpoints()

    def _restore_best(self, state: TrainerState, control: TrainerControl) -> None:
        """Recompute the best step and early stopping from the evaluations of earlier sessions.

        A checkpoint is written before its own step is evaluated, and the metric may have changed since.
        """
        assert self._history is not None
        trainer, key = self._trainer, f"eval_{self._metric}"
        found = {entry.step: _flatten(entry).get(key) for entry in self._history.entries}
        scores = {step: score for step, score in found.items() if score is not None}
        trainer.writer.forget_best()
        for each in trainer.callback_handler.callbacks:
            if isinstance(each, EarlyStoppingCallback):
                control.should_training_stop |= each.recount(self._section, trainer.args, state, [*scores.values()])
        trainer.writer.forget_best()
        saved = self._find_saved([*scores]) if self._saves else [*scores]
        for step in saved:
            trainer.compare_saved(step, {key: scores[step]})
        best = (max if trainer.args.greater_is_better else min)(scores, key=lambda step: scores[step], default=None)
        if best is not None and scores[best] != state.best_metric:
            logger.warning("checkpoint-%d was the best by %s, but it is gone: the best remaining one is used", best,
                           self._metric)  # fmt: skip

    def _find_saved(self, steps: list[int]) -> list[int]:
        """Find the steps whose checkpoint exists, equal on all processes."""
        found: list[int] = share_from_first([step for step in steps if find_checkpoint(self._folder, step)])
        return found

    def _restore_log(self, state: TrainerState) -> None:
        """Add the step's scores to the log, which was saved before they existed."""
        assert self._history is not None
        entry = self._history.find(state.global_step)
        assert entry is not None
        flat = _flatten(entry)
        logged = any(log["step"] == entry.step and flat.keys() <= log.keys() for log in state.log_history)
        if flat and not logged:
            state.log_history.append({**flat, "epoch": state.epoch, "step": entry.step})

    def _keep_checkpoints(self) -> None:
        """Remove checkpoints no longer needed, and link best_model to the best one."""

        def keep() -> None:
            best = self._trainer.state.best_model_checkpoint
            self._trainer.writer.rotate()
            if self._chooses and find_rank() == 0:
                link_best(self._folder, Path(best) if best else None)

        if self._saves:
            run_together(keep)

    def _mark(self, step: int, only_for_evaluation: bool) -> None:
        if find_rank() == 0:
            mark_checkpoint(self._folder, step, only_for_evaluation)

    def score_all(self) -> FinalScores:
        """Score every set with the kept weights: the last step's, or the best one's with load_best_model_at_end.

        Called on all processes. Answers of an evaluation during training with the same weights are reused.
        """
        state = self._trainer.state
        kept, chosen_by = int(state.global_step), None
        if self._trainer.args.load_best_model_at_end and state.best_global_step is not None:
            kept = int(state.best_global_step)
            chosen_by = COMBINED if self._metric == f"{COMBINED}_score" else str(self._metric).removeprefix("eval_")
        if not self._evaluation.at_end:
            return FinalScores({}, {}, kept, self._history, chosen_by)
        found = self._scorer.score_kept(kept, was_evaluated=self._history is not None)
        if self._sets:
            run_on_first(lambda: self._write_final(kept, found))
        scores = {label: score for label, score in found.items() if isinstance(score, SetScore)}
        errors = {label: reason for label, reason in found.items() if isinstance(reason, str)}
        return FinalScores(scores, errors, kept, self._history, chosen_by)

    def _write_final(self, step: int, found: dict[str, SetScore | str]) -> None:
        entry = build_entry(step, found, self._sets)
        facts = {"scorer": self._evaluation.truthfulqa.scorer, "leakage": self._leakage}
        final = {"step": step, "combined_score": entry.combined_score, **facts, "results": entry.results}
        write_object(self._folder / FINAL_RESULTS, final)


def _flatten(entry: Entry) -> dict[str, float]:
    """Return an entry's scores by their names in the log, without those not measured."""
    flat = {
        f"eval_{name_score(label, name)}": value
        for label, metrics in entry.list_metrics().items()
        for name, value in metrics.items()
    }
    if entry.combined_score is not None:
        flat[f"eval_{COMBINED}_score"] = entry.combined_score
    return flat
