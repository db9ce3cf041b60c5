"""Another TRL trainer on our base: one class, and a run is resumed to the same weights."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from utils.trainer.base import LoraNsTrainer
from utils.trainer.building import build_arguments, build_trainer


class PreferenceTrainer(LoraNsTrainer, DPOTrainer):
    """DPO as a task would define it."""


class UnpairedTrainer(LoraNsTrainer, KTOTrainer):
    """KTO as a task would define it."""


PAIRS = [{"prompt": f"{a} + {a} = ", "chosen": str(2 * a), "rejected": str(a)} for a in range(16)]
SINGLE = [{"prompt": f"{a} + {a} = ", "completion": str(2 * a), "label": a % 2 == 0} for a in range(16)]


@pytest.mark.parametrize(
    ("kind", "arguments", "rows"), [(PreferenceTrainer, DPOConfig, PAIRS), (UnpairedTrainer, KTOConfig, SINGLE)]
)
def test_it_trains_evaluates_and_is_resumed_exactly(kind, arguments, rows, prepare_run, make_sft):
    def build() -> LoraNsTrainer:
        config = make_sft(
            training__max_steps=6, training__save_strategy="steps", training__save_steps=3,
            training__eval_strategy="steps", training__eval_steps=3, training__try_longest_batch=True,
            sft={"max_length": 64, "padding_free": False},
            peft={"method": "lora", "lora_dropout": 0.1, "target_modules": "all-linear"},
        )  # fmt: skip
        run, data = prepare_run(config=config), Dataset.from_list(rows)
        return build_trainer(
            kind, config, model=run.model, args=build_arguments(config, {"max_length": 64}, arguments),
            train_dataset=data, eval_dataset=data.select(range(5)), processing_class=run.tokenizer,
        )  # fmt: skip

    whole, resumed = build(), build()
    whole.train()
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-3")
    assert resumed.state.global_step == whole.state.global_step == 6
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state_dict().items())
    losses = [[log["loss"] for log in each.state.log_history if "loss" in log] for each in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert any("eval_loss" in log for log in whole.state.log_history)
