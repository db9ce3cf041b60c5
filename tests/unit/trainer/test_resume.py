"""A run that is resumed to be longer: learning rates and optimizer state where it continues."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as schedules
from transformers import TrainerCallback

from tests.slow_cases import mostly_slow

RATE = 1e-2
BASE = {
    "training__num_train_epochs": 1, "training__logging_steps": 1, "training__save_strategy": "epoch",
    "training__eval_strategy": "no", "training__report_to": "none", "training__load_best_model_at_end": False,
    "peft": {"method": "lora", "lora_dropout": 0.1}, "training__learning_rate": RATE,
}  # fmt: skip
"""40 rows in batches of 8: 5 steps per epoch."""
HALF_WAY = {**BASE, "training__num_train_epochs": 2, "training__save_strategy": "steps", "training__save_steps": 5}


def compute_rates(build: Any, steps: int, base: float = RATE) -> list[float]:
    """Return the first rates of one of torch's own schedules, which knows nothing of transformers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule, rates = build(optimizer, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR's own
            schedule.step()
    return rates


def warm_up(optimizer: Any, steps: int, then: Any) -> Any:
    rising = schedules.LambdaLR(optimizer, lambda step: step / steps)
    return schedules.SequentialLR(optimizer, [rising, then], [steps])


TORCH = {
    "cosine": ({}, lambda optimizer, steps: schedules.CosineAnnealingLR(optimizer, steps)),
    "linear": ({}, lambda optimizer, steps: schedules.LinearLR(optimizer, 1.0, 0.0, steps)),
    "polynomial": (
        {"lr_scheduler_kwargs": {"power": 2.0, "lr_end": 0.0}},
        lambda optimizer, steps: schedules.PolynomialLR(optimizer, steps, 2.0),
    ),
    "constant": ({}, lambda optimizer, steps: schedules.ConstantLR(optimizer, 1.0, steps)),
    "constant_with_warmup": (
        {"warmup_steps": 7},
        lambda optimizer, steps: warm_up(optimizer, 7, schedules.ConstantLR(optimizer, 1.0, steps)),
    ),
    "linear, warmup by share": (
        {"lr_scheduler_type": "linear", "warmup_steps": 0.5},
        lambda optimizer, steps: warm_up(
            optimizer, -(-steps // 2), schedules.LinearLR(optimizer, 1.0, 0.0, steps // 2)
        ),
    ),
}


def read_rates(run: Any) -> list[float]:
    return [entry["learning_rate"] for entry in run.trainer.state.log_history if "learning_rate" in entry]


def resume(prepare_run: Any, make_config: Any, first: dict[str, Any], then: dict[str, Any]) -> tuple[Any, Any, Path]:
    """Train to the end, then continue from checkpoint-5 with other settings."""
    short = prepare_run(config=make_config("bert", **first))
    short.trainer.train()
    longer = prepare_run(config=make_config("bert", **{**first, **then}))
    checkpoint = Path(short.config.training.output_dir) / "checkpoint-5"
    longer.trainer.train(resume_from_checkpoint=str(checkpoint))
    return short, longer, checkpoint


@pytest.mark.parametrize("kind", mostly_slow(TORCH, "cosine", "linear, warmup by share"))
def test_a_finished_run_made_longer_follows_the_new_schedule(kind, prepare_run, make_config, caplog):
    own, build = TORCH[kind]
    keys = {**BASE, "training__lr_scheduler_type": kind, **{f"training__{key}": value for key, value in own.items()}}
    with caplog.at_level(logging.INFO, "utils"):
        short, longer, _ = resume(prepare_run, make_config, keys, {"training__num_train_epochs": 2})
    rates = compute_rates(build, 10)
    assert read_rates(short) == pytest.approx(compute_rates(build, 5), abs=1e-9)
    assert read_rates(longer)[:5] == read_rates(short)
    assert read_rates(longer)[5:] == pytest.approx(rates[5:], abs=1e-9)
    said = f"the learning rate continues at {rates[5]:.3g} (step 5 of the 10-step schedule)"
    assert (said in caplog.text) == (not kind.startswith("constant")), "reported exactly where it applies"


def test_a_new_schedule_applies_to_max_steps_parameter_groups_and_interrupted_runs(prepare_run, make_config):
    """From the middle of a schedule of 10 steps into one of 6; the head has its own learning rate."""
    keys = {**HALF_WAY, "training__lr_scheduler_type": "cosine", "training__head_learning_rate": 3 * RATE}
    _, longer, _ = resume(prepare_run, make_config, keys, {"training__max_steps": 6})
    cosine = TORCH["cosine"][1]
    assert read_rates(longer)[5:] == pytest.approx(compute_rates(cosine, 6)[5:], abs=1e-9)
    ends = {group["lr"] / group["initial_lr"] for group in longer.trainer.optimizer.param_groups if group["params"]}
    assert {group["initial_lr"] for group in longer.trainer.optimizer.param_groups} == {RATE, 3 * RATE}
    assert max(ends) == pytest.approx(0.0, abs=1e-9), "at the end of its own schedule"


def test_the_optimizer_keeps_its_moments_and_the_first_step_has_the_new_rate(prepare_run, make_config):
    """The step after the checkpoint, repeated by a plain AdamW given state, gradient and rate."""
    keys = {**BASE, "training__lr_scheduler_type": "cosine", "training__max_grad_norm": 0.0}
    short = prepare_run(config=make_config("bert", **keys))
    short.trainer.train()
    longer = prepare_run(config=make_config("bert", **{**keys, "training__max_steps": 10}))
    trainer, seen = longer.trainer, {}

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                seen["before"] = [(p, p.detach().clone(), p.grad.clone()) for p in trained()]
                seen["moments"] = [{k: v.clone() for k, v in trainer.optimizer.state[p].items()} for p in trained()]

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                seen["after"] = [p.detach().clone() for p in trained()]

    def trained() -> list[Any]:
        return [p for p in trainer.model.parameters() if p.requires_grad]

    trainer.add_callback(Watch())
    trainer.train(resume_from_checkpoint=f"{short.config.training.output_dir}/checkpoint-5")
    saved = torch.load(f"{short.config.training.output_dir}/checkpoint-5/optimizer.pt", weights_only=True)["state"]
    assert {int(each["step"]) for each in saved.values()} == {5}
    kept = sorted(float(each["exp_avg_sq"].double().sum()) for each in saved.values())
    assert sorted(float(each["exp_avg_sq"].double().sum()) for each in seen["moments"]) == kept
    rate = compute_rates(TORCH["cosine"][1], 10)[5]
    for (parameter, value, gradient), moments, after in zip(
        seen["before"], seen["moments"], seen["after"], strict=True
    ):
        group = next(g for g in trainer.optimizer.param_groups if any(p is parameter for p in g["params"]))
        plain = torch.nn.Parameter(value.clone())
        plain.grad = gradient
        adam = torch.optim.AdamW([plain], lr=rate, weight_decay=group["weight_decay"])
        adam.state[plain] = moments
        adam.step()
        assert torch.allclose(plain, after, rtol=1e-5, atol=1e-8)
        assert not torch.equal(value, after)


def test_a_clock_set_back_gives_no_negative_seconds(prepare_run, monkeypatch):
    began = time.monotonic()
    monkeypatch.setattr("time.time", lambda: 2e9 - 100 * (time.monotonic() - began))
    run = prepare_run("bert", training__max_steps=2, training__eval_strategy="no", training__save_strategy="no",
                      training__load_best_model_at_end=False, training__report_to="none")  # fmt: skip
    assert 0 < run.trainer.train().metrics["train_runtime"] < 60
