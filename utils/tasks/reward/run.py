"""Runs of reward models: pairs as rows, a head with one output, the rest as in supervised fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.dataset import sample_evenly
from utils.data.preference_encoding import MarginEncoder
from utils.modeling.head import build_head_spec
from utils.tasks.classification.building import head_rates
from utils.tasks.classification.probe import run_rows
from utils.tasks.preference.run import RowsRun
from utils.tasks.probe import Answers, Ask, Probe, read_probes
from utils.tasks.reward.trainer import RewardTrainer
from utils.tasks.sft.probe import NUM_RELOAD_ROWS, encode_probes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.modeling.head import HeadSpec
    from utils.tasks.sft.data import CausalData
    from utils.trainer.base import LoraNsTrainer


class RewardRun(RowsRun):
    """See `utils.tasks.task.TaskRun`."""

    TRAINER = RewardTrainer
    ENCODER = MarginEncoder
    SHARES = ("accuracy",)

    def prepare_data(self, tokenizer: PreTrainedTokenizerBase) -> CausalData:
        """Encode the pairs; there are no classes."""
        data = super().prepare_data(tokenizer)
        data.label_names = ()
        return data

    def describe_head(self, data: CausalData) -> HeadSpec:
        """Describe a head with one output."""
        return build_head_spec(())

    def build_trainer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: CausalData
    ) -> LoraNsTrainer:
        """Build the trainer, with the head's own learning rate."""
        trainer = super().build_trainer(model, tokenizer, data)
        trainer.learning_rates |= head_rates(self._settings.training, model)
        return trainer

    def choose_reload_rows(self, data: CausalData, tokenizer: PreTrainedTokenizerBase) -> Ask | None:
        """Choose both answers of validation (else training) rows."""
        rows = data.instructions.evals.get("") or data.instructions.train
        pairs, sides = sample_evenly(rows, NUM_RELOAD_ROWS), ("input_ids", "rejected_input_ids")
        texts = [row[side] for row in pairs for side in sides]
        return lambda model: _answer(model, texts, tokenizer)

    def open_probe(
        self, label_names: tuple[str, ...], run: Path | None, tokenizer: PreTrainedTokenizerBase, num_eval: int
    ) -> Probe:
        """Open the probe of a reward model, which compares rewards."""
        probes = read_probes(run, ("prompt",))
        rows = [ids for ids, _ in encode_probes(probes, self._settings, tokenizer)]
        return Probe(
            rows=probes.source,
            num_rows=len(rows),
            scored="rewards are compared, not scored",
            num_scored=0,
            encode=lambda other: [ids for ids, _ in encode_probes(probes, self._settings, other)],
            compute_logits=lambda model: _answer(model, rows, tokenizer).logits,
            answer=lambda model: _answer(model, rows, tokenizer),
        )


def _answer(model: PreTrainedModel, texts: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> Answers:
    return Answers(run_rows(model, [{"input_ids": ids} for ids in texts], tokenizer))
