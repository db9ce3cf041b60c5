"""LoRA+ and the head's rate: learning rates of parameter groups under any optimizer, decay and schedule."""

from __future__ import annotations

import pytest
import torch


def _rates(trainer):
    """Return learning rate and weight decay by parameter, before the first step."""
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


LORA_PLUS = {"method": "lora", "lora_r": 4, "loraplus_lr_ratio": 16, "bias": "all"}


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adafactor", "sgd"])
def test_b_has_a_higher_rate_and_the_head_its_own(prepare_run, optim):
    keys = {"training__learning_rate": 1e-3, "training__head_learning_rate": 5e-3, "training__weight_decay": 0.1}
    run = prepare_run("bert", peft=LORA_PLUS, training__optim=optim, **keys)
    rates = _rates(run.trainer)
    trained = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert set(rates) == trained
    for name, (rate, decay) in rates.items():
        expected = 16e-3 if ".lora_B." in name else 5e-3 if ".classifier." in name else 1e-3
        assert rate == pytest.approx(expected), name
        assert decay == (0.0 if "bias" in name else 0.1), name


def test_embeddings_have_their_own_rate(prepare_run):
    peft = {**LORA_PLUS, "target_modules": ["embed_tokens", "q_proj"], "loraplus_lr_embedding": 2e-5, "bias": "none"}
    rates = _rates(prepare_run("llama", peft=peft, training__learning_rate=1e-3).trainer)
    found = {part: {round(rate, 9) for name, (rate, _) in rates.items() if f".{part}" in name}
             for part in ("lora_embedding_", "lora_A.", "lora_B.")}  # fmt: skip
    assert found == {"lora_embedding_": {2e-5}, "lora_A.": {1e-3}, "lora_B.": {16e-3}}


def test_rates_of_a_language_model(prepare_run, make_sft):
    peft = {"method": "lora", "lora_r": 4, "loraplus_lr_ratio": 8, "target_modules": "all-linear"}
    rates = _rates(prepare_run(config=make_sft(peft=peft, training__learning_rate=1e-3)).trainer)
    assert {(".lora_B." in name, round(rate, 6)) for name, (rate, _) in rates.items()} == {(True, 8e-3), (False, 1e-3)}


def test_the_schedule_scales_all_rates(prepare_run):
    keys = {"training__max_steps": 4, "training__warmup_steps": 2, "training__lr_scheduler_type": "linear"}
    run = prepare_run("bert", peft=LORA_PLUS, training__learning_rate=1e-3, training__eval_strategy="no", **keys)
    seen = []
    step = run.trainer.training_step

    def watch(*args, **kwargs):
        seen.append(sorted({round(group["lr"], 9) for group in run.trainer.optimizer.param_groups if group["params"]}))
        return step(*args, **kwargs)

    run.trainer.training_step = watch
    run.trainer.train()
    assert seen == [[0.0], [5e-4, 8e-3], [1e-3, 16e-3], [5e-4, 8e-3]]


def test_without_a_ratio_nothing_changes(prepare_run):
    run = prepare_run("bert", peft={"method": "lora", "lora_r": 4})
    assert run.trainer.learning_rates == {}
    assert len([group for group in run.trainer.create_optimizer().param_groups if group["params"]]) == 2


def test_b_moves_sixteen_times_as_far(prepare_run):
    """Adam's first step equals the learning rate in every weight that has a gradient."""
    keys = {"training__max_steps": 1, "training__eval_strategy": "no", "training__warmup_steps": 0}
    moved = {}
    for ratio in (None, 16):
        run = prepare_run("bert", peft={**LORA_PLUS, "loraplus_lr_ratio": ratio}, training__learning_rate=1e-3, **keys)
        run.trainer.train()
        state = run.trainer.model.state_dict()
        moved[ratio] = max(each.abs().max().item() for name, each in state.items() if ".lora_B." in name)
        assert all(torch.isfinite(each).all() for each in state.values() if each.is_floating_point())
    assert moved[16] == pytest.approx(16 * moved[None], rel=1e-2)
