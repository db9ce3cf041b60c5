"""Runs of supervised fine-tuning: prompts with answers, TRL's SFTTrainer, and scores of generated answers."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import ConfigError, Problem
from utils.data.dataset import InstructionSet
from utils.data.encoded_rows import format_preview, render_preview
from utils.data.encoding import ExampleEncoder
from utils.data.instruction import InstructionData, prepare_instructions, read_training_rows, resolve_set
from utils.data.reading import DataProblems
from utils.evaluation.contamination import check_leakage
from utils.evaluation.sets import AnswerSettings, EvaluationSet, load_evaluation_sets
from utils.modeling.sizes import count_text_positions, has_position_table, length_problem
from utils.tasks.sft.building import build_causal_trainer, pack_rows
from utils.tasks.sft.data import CausalData
from utils.tasks.sft.evaluation_rules import BestMetric, find_best_metric, list_losses, require_best_metric
from utils.tasks.sft.generating import GeneratingCallback
from utils.tasks.sft.outcome import CausalScores, collect_causal_outcome
from utils.tasks.sft.probe import choose_reload_rows, open_probe
from utils.tasks.sft.retention import find_retention
from utils.tasks.sft.section import OwnSftSection, build_encoder
from utils.tasks.sft.set_scoring import SetScorer
from utils.tasks.task import load_task

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.data.splits import Splits
    from utils.modeling.head import HeadSpec
    from utils.modeling.sizes import ParameterCounts
    from utils.results.record import RunRecord
    from utils.tasks.outcome import Outcome
    from utils.tasks.probe import Ask, Probe
    from utils.trainer.base import LoraNsTrainer
    from utils.trainer.progress import MeasuringCallback


class SftRun:
    """A CAUSAL_LM run; see `utils.tasks.task.TaskRun`. Other language-model tasks extend it."""

    ANSWERS_OWN_ROWS: ClassVar[bool] = True
    """Whether the validation rows' prompts are answered if no set is named."""
    ENCODER: ClassVar[type[ExampleEncoder]] = ExampleEncoder
    """Encoder of the rows."""

    def __init__(self, settings: RunConfig) -> None:
        self._settings = settings
        self._generating: GeneratingCallback | None = None

    def prepare_data(self, tokenizer: PreTrainedTokenizerBase) -> CausalData:
        """Encode the training rows, and load the sets that are answered by generating.

        Raises:
            DataError: The rows cannot be used.
            ModelError: The tokenizer lacks an end-of-text token or a chat template that the rows need.
        """
        settings = self._settings
        spec = resolve_set(self.describe_rows())
        encoder = build_encoder(settings, tokenizer, self.ENCODER)
        problems, data = DataProblems(), None
        with problems.gather():
            data = self._prepare(spec, encoder)
        if data is None and settings.evaluation.sets is not None and settings.evaluation.is_used:
            with problems.gather():  # the sets' problems are reported with those of the training rows
                self._load_named_sets(spec, encoder)
        problems.stop()
        assert data is not None, "a problem was raised"
        return data

    def describe_rows(self) -> InstructionSet:
        """Describe the dataset's rows for this task."""
        return load_task(self._settings.task).describe_rows(self._settings)

    def arrange(self, rows: Dataset) -> Dataset:
        """Pack encoded rows if `sft.packing` is set."""
        sft = self._settings.section(OwnSftSection)
        return pack_rows(rows, sft.max_length) if sft.packing else rows

    def _prepare(self, spec: InstructionSet, encoder: ExampleEncoder) -> CausalData:
        settings = self._settings
        section = settings.section(InstructionSection)
        data = prepare_instructions(spec, section, encoder, settings.seed)
        train = self.arrange(data.train)
        sets = self._load_sets(data, encoder)
        require_best_metric(settings, sets)
        leakage = check_leakage(data.train, data.read_train, sets, section.allow_leakage)
        return CausalData(data, encoder, train, sets, leakage)

    def _load_sets(
        self, data: InstructionData, encoder: ExampleEncoder, window: int | None = None
    ) -> list[EvaluationSet]:
        """Load the evaluation sets before anything is trained; prompts longer than the window lose their middle."""
        evaluation = self._settings.evaluation
        if not evaluation.is_used:
            return []
        own = evaluation.sets is None and data.spec.generation_split is None
        if own and not self.ANSWERS_OWN_ROWS:
            logger.info("no prompts are answered by generating: name sets for it under evaluation.sets")
            return []
        if own and data.evals and not any(each.prompt or each.messages for each in data.validation_examples):
            logger.info("plain texts have no prompts to answer: the result is the loss, with its perplexity")
            return []
        if own and not data.evals:
            logger.info("no rows to answer by generating: hold some out by dataset.validation_size, or name a set "
                        "under evaluation.sets")  # fmt: skip
            return []
        return self._load_named_sets(data.spec, encoder, window, data.splits)

    def _load_named_sets(
        self, spec: InstructionSet, encoder: ExampleEncoder, window: int | None = None, read: Splits | None = None
    ) -> list[EvaluationSet]:
        settings = self._settings
        answers = AnswerSettings(settings.generation, window, read=read)
        return load_evaluation_sets(
            settings.evaluation, spec, settings.section(InstructionSection), encoder, settings.seed, answers
        )

    def fingerprint_rows(self) -> str:
        """Hash the current rows."""
        section = self._settings.section(InstructionSection)
        return read_training_rows(self.describe_rows(), section, self._settings.seed)[1]

    def preview(self, data: CausalData, tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, Any]:
        """Print the first rows with the trained tokens marked."""
        from utils.core.terminal import build_console

        console, rows = build_console(), data.instructions.train
        if console.is_terminal:
            console.print(render_preview(rows, tokenizer, count), soft_wrap=True)
        else:
            sys.stdout.write(format_preview(rows, tokenizer, count))
        return {"rows": rows.select(range(min(count, len(rows)))).to_list()}

    def describe_head(self, data: CausalData) -> HeadSpec | None:
        """Return None: a language model gets no new head."""
        return None

    def build_trainer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: CausalData
    ) -> LoraNsTrainer:
        """Build the trainer, and the callback that scores generated answers."""
        settings = self._settings
        require_positions(model, data.longest_row, settings.peft.virtual_tokens, settings.length_key)
        window = count_text_positions(model)
        if any(each.needs_cutting(window, settings.generation.max_new_tokens) for each in data.sets):
            data.sets = self._load_sets(data.instructions, data.encoder, window)
        best, validation = find_best_metric(settings, data.sets), data.instructions.evals.get("")
        trainer = self.build_own_trainer(model, tokenizer, data.train, validation, best)
        scorer = SetScorer(trainer, data.sets, data.encoder.stop_token_ids, settings)
        self._generating = GeneratingCallback(trainer, scorer, settings, data.leakage)
        trainer.add_callback(self._generating)
        return trainer

    def build_own_trainer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Dataset,
        evaluation: Dataset | None,
        best: BestMetric | None,
    ) -> LoraNsTrainer:
        """Build the task's trainer of encoded rows, without callbacks."""
        return build_causal_trainer(self._settings, model, tokenizer, train, evaluation, best)

    def score(
        self,
        trainer: LoraNsTrainer,
        data: CausalData,
        record: RunRecord,
        counts: ParameterCounts,
        measuring: MeasuringCallback,
    ) -> Outcome:
        """Score generated answers, which decides whose step's weights are kept, then evaluate the loss."""
        assert self._generating is not None, "the trainer is built before it is scored"
        written = self._generating.score_all()
        has_loss = data.instructions.evals and list_losses(self._settings)
        losses = _evaluate_loss(trainer, written.step) if has_loss else {}
        record = replace(record, retention=find_retention(trainer, data.encoder.tokenizer, self._settings))
        scores = CausalScores(losses, written, list_losses(self._settings), self.describe_losses(trainer, data, losses))
        return collect_causal_outcome(record, trainer, data, scores, counts, measuring)

    def describe_losses(
        self, trainer: LoraNsTrainer, data: CausalData, losses: Mapping[str, Any]
    ) -> dict[str, tuple[float, float]]:
        """Return intervals of the rows' evaluation, by metric name without prefix."""
        return {}

    def choose_reload_rows(self, data: CausalData, tokenizer: PreTrainedTokenizerBase) -> Ask | None:
        """Choose validation (else training) rows."""
        return choose_reload_rows(data.instructions.evals.get("") or data.instructions.train)

    def open_probe(
        self, label_names: tuple[str, ...], run: Path | None, tokenizer: PreTrainedTokenizerBase, num_eval: int
    ) -> Probe:
        """Open the probe of a language model."""
        return open_probe(self._settings, run, tokenizer, with_loss=num_eval > 0)


def require_positions(model: PreTrainedModel, length: int, virtual: int = 0, key: str = "sft.max_length") -> None:
    """Check the longest row against the loaded model; config.json was checked before, if it was available.

    `virtual` is the number of the adapter's virtual tokens before each row.

    Raises:
        ConfigError: The model has a table of positions, and it is shorter.
    """
    config = model.config.to_dict()
    if (message := length_problem(config, None, length + virtual)) is None:
        return
    if virtual:
        message = f"{message} ({virtual} of them are peft.num_virtual_tokens)"
    if has_position_table(config):
        raise ConfigError([Problem(message, key)])
    logger.warning("%s: %s", key, message)


def _evaluate_loss(trainer: LoraNsTrainer, step: int) -> dict[str, Any]:
    """Evaluate the loss, or reuse the last evaluation if it was of the same step's weights."""
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    if logs and logs[-1]["step"] == step == trainer.state.global_step:
        return {key: value for key, value in logs[-1].items() if key.startswith("eval_")}
    found: dict[str, Any] = trainer.evaluate()
    return found
