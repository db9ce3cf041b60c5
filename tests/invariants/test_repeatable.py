"""A run is a function of its configuration: repeated or resumed, it gives bit-for-bit the same results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.invariants.comparison import copy_trained

TWO_EPOCHS = {"training__num_train_epochs": 2, "training__logging_steps": 1, "training__save_total_limit": None}


def _losses(run):
    return {log["step"]: log["loss"] for log in run.trainer.state.log_history if "loss" in log}


@pytest.mark.parametrize("method", ["lora", "none"])
def test_a_resumed_run_equals_an_uninterrupted_one(prepare_run, method):
    """Also from the middle of an epoch: seen rows are skipped, and the same rows follow."""
    keys = {**TWO_EPOCHS, "peft": {"method": method}, "training__load_best_model_at_end": False}
    keys |= {"training__save_strategy": "steps", "training__save_steps": 3}
    whole = prepare_run("bert", **keys)
    whole.trainer.train()
    resumed = prepare_run("bert", **keys)
    resumed.trainer.train(resume_from_checkpoint=f"{whole.config.training.output_dir}/checkpoint-3")
    assert resumed.trainer.state.global_step == whole.trainer.state.global_step == 10
    assert {step: _losses(resumed)[step] for step in range(4, 11)} == {
        step: _losses(whole)[step] for step in range(4, 11)
    }
    expected, actual = copy_trained(whole), copy_trained(resumed)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_resumed_run_reports_all_its_sessions(prepare_run, is_known):
    """Loss, tokens and seconds cover the same steps: the whole run, or the last session only.

    A checkpoint of another tool does not record earlier sessions.
    """
    from utils.modeling.sizes import count_parameters
    from utils.results.record import RunRecord
    from utils.tasks.classification.scoring import collect_outcome

    keys = {**TWO_EPOCHS, "training__load_best_model_at_end": False, "training__save_strategy": "steps"}
    run = prepare_run("bert", **keys, training__save_steps=9)
    run.trainer.train()
    checkpoint = Path(run.config.training.output_dir) / "checkpoint-9"
    seconds_before = json.loads((checkpoint / "session.json").read_text())["totals"]["seconds"]
    if not is_known:
        (checkpoint / "session.json").unlink()
    resumed = prepare_run("bert", **keys, training__save_steps=9)
    resumed.trainer.train(resume_from_checkpoint=str(checkpoint))
    started = RunRecord(status="failed", task_name="t", task_type="SEQ_CLS", method="lora")
    outcome = collect_outcome(
        started, resumed.trainer, resumed.data, {}, count_parameters(resumed.model), resumed.measuring
    )
    time, seen = outcome.record.time, resumed.trainer.state.num_input_tokens_seen
    assert outcome.record.extra["resumed_from_step"] == 9
    tokens = time.tokens_per_s * time.train_runtime_s
    if is_known:
        assert tokens == pytest.approx(seen)
        assert outcome.trained["train_loss"] == run.trainer.state.log_history[-1]["train_loss"]
        assert 0 < seconds_before < time.train_runtime_s
        assert time.samples_per_s * time.train_runtime_s == pytest.approx(80, rel=0.01)
    else:
        assert tokens < seen / 3
        assert "train_loss" not in outcome.trained
        assert time.samples_per_s * time.train_runtime_s == pytest.approx(8, rel=0.01)


def test_evaluating_more_often_changes_no_weight(prepare_run):
    once = prepare_run("bert", **TWO_EPOCHS, training__load_best_model_at_end=False)
    often = prepare_run(
        "bert", **TWO_EPOCHS, training__load_best_model_at_end=False,
        training__eval_strategy="steps", training__eval_steps=1, training__save_strategy="no",
    )  # fmt: skip
    for run in (once, often):
        run.trainer.train()
    assert _losses(once) == _losses(often)


def test_evaluating_an_nf4_model_more_often_changes_no_weight(prepare_run, tiny_base):
    model = {"name_or_path": str(tiny_base("llama", 64)), "quantization": "nf4"}
    runs = []
    for strategy in ("no", "steps"):
        runs.append(
            prepare_run(
                "llama", model=model, **TWO_EPOCHS, training__eval_strategy=strategy, training__eval_steps=2,
                training__save_strategy="no", training__load_best_model_at_end=False,
            )
        )  # fmt: skip
        runs[-1].trainer.train()
    assert _losses(runs[0]) == _losses(runs[1])
    assert _losses(runs[0])[10] < _losses(runs[0])[1]
