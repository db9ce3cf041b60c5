"""Lets the model write during training and at its end, and scores what it wrote."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.evaluation.evaluator import evaluate_set
from utils.evaluation.score import SetScore
from utils.training.document_attention import plain_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from utils.evaluation.sets import EvaluationSet
    from utils.training.causal_trainer import CausalTrainer
    from utils.training.tasks import RunSettings


logger = logging.getLogger(__name__)


class GeneratingCallback(TrainerCallback):
    """Scores evaluation sets every so many steps; training goes on as if nothing had happened.

    Args:
        trainer: Whose model writes.
        sets: What is asked.
        stop_token_ids: Tokens that end an answer.
        settings: The run: how answers are generated, and how often. Answers go to eval_step_N/<set> in its
            folder and, at the end, to eval_<set>.
    """

    def __init__(
        self,
        trainer: CausalTrainer,
        sets: Sequence[EvaluationSet],
        stop_token_ids: Sequence[int],
        settings: RunSettings,
    ) -> None:
        self._trainer = trainer
        self._sets = tuple(sets)
        self._generation = settings.generation
        self._stop_token_ids = tuple(stop_token_ids)
        self._folder = Path(settings.training.output_dir).expanduser()
        self._steps = settings.evaluation.steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say when no evaluation will come before the end."""
        if self._steps is not None and self._steps >= state.max_steps:
            logger.warning("evaluation.steps: %d has no effect: the run has %d steps", self._steps, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluate when it is time; scores go to the log under eval_<set>_<metric>."""
        if self._steps is None or state.global_step % self._steps or state.global_step >= state.max_steps:
            return
        scores = self._score(self._folder / f"eval_step_{state.global_step}", "")
        flat = {f"eval_{label}_{name}": value for label, each in scores.items() for name, value in each.metrics.items()}
        if flat:
            due = control.should_log  # logging now must not swallow the step's own loss
            self._trainer.log(flat)
            control.should_log = due

    def score_all(self) -> dict[str, SetScore]:
        """Score every set with the model as it is now.

        Returns:
            Scores by the set's label.
        """
        return self._score(self._folder, "eval_")

    def _score(self, folder: Path, prefix: str) -> dict[str, SetScore]:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        with plain_attention(model), self._trainer.compute_loss_context_manager():
            return {
                each.label: evaluate_set(
                    model,
                    self._trainer.processing_class,
                    each,
                    self._generation,
                    folder / f"{prefix}{each.label}",
                    self._stop_token_ids,
                )
                for each in self._sets
            }
