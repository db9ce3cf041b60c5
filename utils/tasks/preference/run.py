"""Runs with a loss per row, and runs that read preferences; the rest is as in supervised fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from utils.data.preference_encoding import PairEncoder
from utils.metrics.bootstrap import wilson_interval
from utils.tasks.preference.batches import PreferenceCollator
from utils.tasks.preference.reference import prepare_reference
from utils.tasks.preference.trainer import PreferenceTrainer, RowsTrainer
from utils.tasks.sft.building import choose_layout, choose_multiple, fit_arguments
from utils.tasks.sft.run import SftRun
from utils.tasks.task import load_task
from utils.trainer.building import build_arguments, build_trainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.data.encoding import ExampleEncoder
    from utils.tasks.sft.data import CausalData
    from utils.tasks.sft.evaluation_rules import BestMetric
    from utils.trainer.base import LoraNsTrainer


class RowsRun(SftRun):
    """A run whose trainer has a loss per row, such as `RowsTrainer`; tasks extend it."""

    TRAINER: ClassVar[type[RowsTrainer]]
    SHARES: ClassVar[tuple[str, ...]] = ()
    """Metrics that are shares of the validation rows."""

    def arrange(self, rows: Dataset) -> Dataset:
        """Return the rows unchanged: they are not packed."""
        return rows

    def extend(self, rows: Dataset) -> Dataset:
        """Add columns that the task's loss needs from other rows."""
        return rows

    def choose_parts(self, train: Dataset, evaluation: Dataset | None, collate: PreferenceCollator) -> dict[str, Any]:
        """Return the trainer's own arguments."""
        held_out = None if evaluation is None else self.extend(evaluation)
        return {"train_dataset": self.extend(train), "eval_dataset": held_out, "data_collator": collate}

    def build_own_trainer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Dataset,
        evaluation: Dataset | None,
        best: BestMetric | None,
    ) -> LoraNsTrainer:
        """Build the trainer."""
        config = self._settings
        name = str(load_task(config.task).SECTION)
        section: Any = config.section_named(name)
        flattened = choose_layout(getattr(section, "padding_free", False), config.peft, model, f"{name}.padding_free")
        evaluates = evaluation is not None and bool(load_task(config.task).LOSSES)
        arguments = build_arguments(config, fit_arguments(config, best, evaluates))
        multiple = choose_multiple(section.pad_to_multiple_of, flattened, arguments.bf16 or arguments.fp16)
        collate = PreferenceCollator(int(tokenizer.pad_token_id), flattened, multiple)
        return build_trainer(
            self.TRAINER,
            config,
            model=model,
            section=section,
            args=arguments,
            processing_class=tokenizer,
            **self.choose_parts(train, evaluation, collate),
        )

    def describe_losses(
        self, trainer: LoraNsTrainer, data: CausalData, losses: Mapping[str, Any]
    ) -> dict[str, tuple[float, float]]:
        """Return Wilson intervals of shares of the validation rows."""
        num_rows = len(data.instructions.evals.get("", ()))
        found = {name: losses.get(f"eval_{name}") for name in self.SHARES}
        return {name: wilson_interval(share, num_rows) for name, share in found.items() if share is not None}


class PreferenceRun(RowsRun):
    """A run on preferences, by default on pairs; see `utils.tasks.task.TaskRun`."""

    ANSWERS_OWN_ROWS = False
    ENCODER: ClassVar[type[ExampleEncoder]] = PairEncoder
    TRAINER: ClassVar[type[PreferenceTrainer]]
    SHARES: ClassVar[tuple[str, ...]] = ("rewards/accuracies", "logps/accuracies")

    def build_trainer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: CausalData
    ) -> LoraNsTrainer:
        """Build the trainer, and precompute the reference's log-probabilities if the base cannot give them."""
        trainer = super().build_trainer(model, tokenizer, data)
        if self._settings.arguments.get("do_train", True):
            assert isinstance(trainer, PreferenceTrainer), "its own"
            prepare_reference(trainer, self._settings, f"{data.fingerprint} {data.encoder.fingerprint}")
        return trainer
