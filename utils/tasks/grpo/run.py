"""Runs that learn from rewards: prompts as rows, a trainer that generates, the rest as in supervised fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import InstructionSection
from utils.core.json_files import parse_json
from utils.generation.judging import load_judge
from utils.tasks.grpo.groups import PromptEncoder, RepeatedPrompts, Rewards
from utils.tasks.grpo.section import GrpoSection
from utils.tasks.grpo.trainer import GrpoTrainer
from utils.tasks.preference.run import RowsRun
from utils.tasks.preparing import choose_device
from utils.tasks.sft.data import CausalData

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from utils.tasks.preference.batches import PreferenceCollator


class GrpoRun(RowsRun):
    """See `utils.tasks.task.TaskRun`."""

    TRAINER = GrpoTrainer
    ENCODER = PromptEncoder

    def arrange(self, rows: Dataset) -> Dataset:
        """Return the rows unchanged, after a check that the rewards can judge answers to them."""
        section = self._settings.section(GrpoSection)
        Rewards(section).require([parse_json(each) for each in rows["reference"][:]])
        return rows

    def prepare_data(self, tokenizer: PreTrainedTokenizerBase) -> CausalData:
        """Encode the prompts; each row of an epoch is one answer."""
        data = super().prepare_data(tokenizer)
        section = self._settings.section(GrpoSection)
        data.times = section.num_generations * section.num_iterations
        self._stop = (data.instructions.spec.stop, data.encoder.stop_token_ids)
        return data

    def choose_parts(self, train: Dataset, evaluation: Dataset | None, collate: PreferenceCollator) -> dict[str, Any]:
        """Return the trainer's arguments for generating and rewarding answers."""
        config = self._settings
        section = config.section(GrpoSection)
        drawn = {"max_new_tokens": section.max_completion_length, "temperature": section.temperature,
                 "top_p": section.top_p, "top_k": section.top_k, "min_new_tokens": 0}  # fmt: skip
        rows, device = config.section(InstructionSection), choose_device(config.arguments)
        judges = [load_judge(name, rows, device) for name in section.reward_models]
        return {
            "train_dataset": RepeatedPrompts(train, section.num_generations),
            "generation": config.generation.model_copy(update=drawn),
            "stop": self._stop,
            "collate": collate,
            "rewards": Rewards(section, judges),
            "method": config.peft.method,
            "seed": config.seed,
            "temperature": section.temperature,
        }
