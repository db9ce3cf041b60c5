"""A run that reads preferences: rows, encoder and trainer of its own, all else as in supervised fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from utils.data.preference import PairEncoder
from utils.metrics.bootstrap import wilson_interval
from utils.tasks.preference import PreferenceSection
from utils.tasks.preference.batches import PreferenceCollator
from utils.tasks.preference.reference import settle_reference
from utils.tasks.preference.trainer import PreferenceTrainer
from utils.tasks.sft.building import choose_layout, choose_multiple, fit_arguments
from utils.tasks.sft.run import SftRun
from utils.tasks.sft.section import build_encoder
from utils.trainer.building import build_arguments, build_trainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.data.encoding import ExampleEncoder
    from utils.tasks.sft.evaluation_rules import BestMetric
    from utils.tasks.sft.run import CausalData
    from utils.trainer.base import LoraNsTrainer


class PreferenceRun(SftRun):
    """See `utils.tasks.task.TaskRun`; rows are pairs unless a task says otherwise."""

    ANSWERS_OWN_ROWS = False
    TRAINER: ClassVar[type[PreferenceTrainer]]
    SHARES: ClassVar[tuple[str, ...]] = ("rewards/accuracies", "logps/accuracies")
    """Metrics that are shares of the validation rows."""

    def build_encoder(self, tokenizer: PreTrainedTokenizerBase) -> ExampleEncoder:
        """Build what encodes both sides."""
        return build_encoder(self._settings, tokenizer, PairEncoder)

    def arrange(self, rows: Dataset) -> Dataset:
        """Leave the rows as they are: they are not packed."""
        return rows

    def extend(self, rows: Dataset) -> Dataset:
        """Add what a task's loss needs of other rows."""
        return rows

    def build_own_trainer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        train: Dataset,
        evaluation: Dataset | None,
        best: BestMetric | None,
    ) -> LoraNsTrainer:
        """Build the trainer, and settle where the reference's log-probabilities come from."""
        config = self._settings
        section = config.section(PreferenceSection)
        flattened = choose_layout(
            section.padding_free, config.peft, model, f"{config.length_key.split('.')[0]}.padding_free"
        )
        arguments = build_arguments(config, fit_arguments(config, best, evaluation is not None))
        multiple = choose_multiple(section.pad_to_multiple_of, flattened, arguments.bf16 or arguments.fp16)
        trainer = build_trainer(
            self.TRAINER,
            config,
            model=model,
            section=section,
            args=arguments,
            train_dataset=self.extend(train),
            eval_dataset=None if evaluation is None else self.extend(evaluation),
            processing_class=tokenizer,
            data_collator=PreferenceCollator(int(tokenizer.pad_token_id), flattened, multiple),
        )
        if config.arguments.get("do_train", True):
            settle_reference(trainer, config, self._fingerprint)
        return trainer

    def build_trainer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: CausalData
    ) -> LoraNsTrainer:
        """Build the trainer, and the callback that lets the model write."""
        self._fingerprint = f"{data.fingerprint} {data.encoder.fingerprint}"
        return super().build_trainer(model, tokenizer, data)

    def describe_losses(
        self, trainer: LoraNsTrainer, data: CausalData, losses: Mapping[str, Any]
    ) -> dict[str, tuple[float, float]]:
        """Give Wilson's intervals of shares of the validation rows."""
        num_rows = len(data.instructions.evals.get("", ()))
        found = {name: losses.get(f"eval_{name}") for name in self.SHARES}
        return {name: wilson_interval(share, num_rows) for name, share in found.items() if share is not None}
