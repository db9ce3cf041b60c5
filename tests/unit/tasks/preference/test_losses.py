"""Losses and gradients of DPO and KTO equal TRL's, with and without padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from tests.unit.tasks.preference.conftest import compute_gradients, draw_pairs
from utils.tasks.dpo.section import DpoSection, LossType
from utils.tasks.dpo.trainer import DpoTrainer
from utils.tasks.kto.section import KtoSection
from utils.tasks.kto.trainer import KtoTrainer, exchange_answers
from utils.tasks.preference.batches import PreferenceCollator
from utils.trainer.varlen_attention import require_separate_documents

STEPS, ROWS = 20, 4
SHARED: dict[str, Any] = {
    "per_device_train_batch_size": ROWS, "max_steps": STEPS, "learning_rate": 1e-2, "optim": "sgd", "logging_steps": 1,
    "lr_scheduler_type": "constant", "use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    "train_sampling_strategy": "sequential", "dataloader_pin_memory": False, "max_grad_norm": 1.0,
}  # fmt: skip


def build_ours(model: Any, folder: Path, padding_free: bool = False, section: DpoSection | None = None, **changed: Any):
    if padding_free:
        require_separate_documents(model)
    return DpoTrainer(
        model=model,
        section=section or DpoSection(),
        args=TrainingArguments(output_dir=str(folder), **{**SHARED, **changed}),
        train_dataset=draw_pairs(STEPS * ROWS)[0],
        data_collator=PreferenceCollator(0, padding_free),
    )


def build_theirs(model: Any, folder: Path, tokenizer: Any, **keys: Any):
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        output_dir=str(folder), **SHARED, bf16=False, gradient_checkpointing=False, max_length=None, **keys
    )
    rows = draw_pairs(STEPS * ROWS)[1]
    prepare = DPOTrainer._prepare_dataset
    DPOTrainer._prepare_dataset = lambda self, rows, *_: rows  # they are encoded
    try:
        return DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    finally:
        DPOTrainer._prepare_dataset = prepare


def train(trainer: Any) -> tuple[list[float], list[float]]:
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log and "grad_norm" in log]
    return [log["loss"] for log in logs], [log["grad_norm"] for log in logs]


SLOW = pytest.mark.slow


@pytest.mark.parametrize("loss_type", ["sigmoid", pytest.param("ipo", marks=SLOW), pytest.param("hinge", marks=SLOW)])
def test_twenty_dpo_steps_equal_trls(loss_type, build_model, tmp_path, load_tokenizer_of):
    theirs = train(build_theirs(build_model(), tmp_path, load_tokenizer_of("llama"), loss_type=[loss_type]))
    assert len(theirs[0]) == STEPS
    for padding_free in (False, True):
        section = DpoSection(loss_type=loss_type)
        ours = train(build_ours(build_model(), tmp_path, padding_free, section))
        for mine, other in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_every_dpo_loss_type_equals_trls(build_model, tmp_path, load_tokenizer_of):
    model = build_model()
    trl = build_theirs(model, tmp_path, load_tokenizer_of("llama"))  # keeps a copy of the adapter as the reference
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B.default" in name:
            torch.nn.init.normal_(weight, std=0.05)
    theirs_batch = trl.data_collator(trl.train_dataset.to_list()[:ROWS])
    cases = [{"loss_type": name, "label_smoothing": 0.1} for name in get_args(LossType)]
    cases += [
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 2.0]},
        {"ld_alpha": 0.3},
        *({"f_divergence_type": kind} for kind in ("forward_kl", "js_divergence", "alpha_divergence")),
    ]
    for case in cases:
        section = DpoSection(**case)
        for name in ("label_smoothing", "ld_alpha", "f_divergence_type"):
            setattr(trl, name, getattr(section, name))
        trl.loss_types, trl.loss_weights = list(section.losses), list(section.losses.values())
        expected = trl.compute_loss(model, theirs_batch)
        ours = build_ours(model, tmp_path, section=section)
        found = ours.compute_loss(model, ours.data_collator(ours.train_dataset.to_list()[:ROWS]))
        theirs, mine = (compute_gradients(model, loss) for loss in (expected, found))
        assert found.item() == pytest.approx(expected.item(), rel=1e-5), case
        assert float((theirs - mine).norm()) < 1e-5 * float(theirs.norm()), case


@pytest.mark.parametrize("loss_type", ["kto", pytest.param("apo_zero_unpaired", marks=SLOW)])
def test_twenty_kto_steps_equal_trls(loss_type, build_model, tmp_path, load_tokenizer_of, monkeypatch):
    from trl import KTOConfig, KTOTrainer

    ours, theirs = draw_pairs(STEPS * ROWS)
    labels = [int(number % 3 > 0) for number in range(len(ours))]
    ours = ours.select_columns(["input_ids", "labels"]).add_column("is_good", labels)
    answers = theirs["chosen_ids"][:]
    others = [answers[start + (row - 1) % ROWS] for start in range(0, len(answers), ROWS) for row in range(ROWS)]
    rows = Dataset.from_dict({
        "prompt_ids": theirs["prompt_ids"][:], "completion_ids": answers, "KL_completion_ids": others,
        "label": [bool(label) for label in labels],
    })  # fmt: skip
    monkeypatch.setattr(KTOTrainer, "_prepare_dataset", lambda self, *_: rows)  # they are encoded
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.7}
    arguments = KTOConfig(
        output_dir=str(tmp_path), **SHARED, bf16=False, gradient_checkpointing=False, loss_type=loss_type, **weights
    )
    trl = KTOTrainer(
        model=build_model(), args=arguments, train_dataset=rows, processing_class=load_tokenizer_of("llama")
    )
    expected = train(trl)
    if loss_type == "kto":
        ours = exchange_answers(ours, ROWS, 64)
    for padding_free in (False, True):
        model = build_model()
        if padding_free:
            require_separate_documents(model)
        trainer = KtoTrainer(
            model=model,
            section=KtoSection(loss_type=loss_type, **weights),
            args=TrainingArguments(output_dir=str(tmp_path), **SHARED),
            train_dataset=ours,
            data_collator=PreferenceCollator(0, padding_free),
        )
        for mine, other in zip(train(trainer), expected, strict=True):
            assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)
