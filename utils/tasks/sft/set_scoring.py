"""Score evaluation sets by generated answers, during or after training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.errors import LoraNsError
from utils.evaluation.evaluator import evaluate_set
from utils.evaluation.files import SetFiles, copy_answers, name_model, step_folder
from utils.evaluation.handing_over import handed_over
from utils.evaluation.identity import hash_model
from utils.evaluation.processes import FAILURES, describe_failure, run_on_first
from utils.evaluation.score import SetScore
from utils.generation.model_state import keep_random_state
from utils.trainer.varlen_attention import plain_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from utils.config.run_config import RunConfig
    from utils.evaluation.sets import EvaluationSet
    from utils.generation.server import ServedModel
    from utils.trainer.base import LoraNsTrainer

logger = logging.getLogger(__name__)


class SetScorer:
    """The sets of one run, answered by the trainer's model or by a server that loads its adapter.

    Answers of a step are written to eval_step_N in the run's folder, those of the kept weights to eval_<set>.
    """

    def __init__(
        self, trainer: LoraNsTrainer, sets: Sequence[EvaluationSet], stop_token_ids: Sequence[int], settings: RunConfig
    ) -> None:
        self.sets = tuple(sets)
        self._trainer = trainer
        self._stop_token_ids = tuple(stop_token_ids)
        self._generation = settings.generation
        self._server = settings.evaluation.server
        self._method = settings.peft.method
        self._folder = Path(settings.training.output_dir).expanduser()
        self._model_name = name_model(settings.model.name_or_path)

    def score_step(self, step: int) -> dict[str, SetScore | str]:
        """Score every set during training; the value of a set that fails is the reason."""
        return {each.label: self._score(each, self._files_of_step(each, step)) for each in self.sets}

    def score_kept(self, step: int, was_evaluated: bool) -> dict[str, SetScore | str]:
        """Score every set with the kept weights of a step, reusing its answers if it was evaluated."""
        found: dict[str, SetScore | str] = {}
        for each in self.sets:
            source = self._files_of_step(each, step) if was_evaluated else None
            found[each.label] = self._score(each, SetFiles(self._folder / f"eval_{each.label}"), source)
        return found

    def _files_of_step(self, known: EvaluationSet, step: int) -> SetFiles:
        return SetFiles(step_folder(self._folder, step), f"{self._model_name}_{known.label}_")

    def _score(self, known: EvaluationSet, files: SetFiles, source: SetFiles | None = None) -> SetScore | str:
        """Score one set, or return the reason of a failure, so that the run continues.

        Answers in `source` are reused if they are of the same weights.
        """
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        tokenizer = self._trainer.processing_class
        try:
            if source is not None:
                run_on_first(lambda: copy_answers(source, files))
            with (
                keep_random_state(),
                plain_attention(model),
                self._trainer.compute_loss_context_manager(),
                self._open_writer(model) as writer,
            ):
                return evaluate_set(writer, tokenizer, known, self._generation, files, self._stop_token_ids)
        except FAILURES as error:
            reason = describe_failure(error)
            logger.warning("%s: no score: %s", known.label, reason, exc_info=not isinstance(error, LoraNsError))
            return reason

    @contextmanager
    def _open_writer(self, model: PreTrainedModel) -> Iterator[PreTrainedModel | ServedModel]:
        """Yield what generates: the model itself, or a server that has loaded the current adapter."""
        if self._server is None:
            yield model
            return
        with handed_over(model, self._server, self._method, self._folder, hash_model(model)) as served:
            yield served
