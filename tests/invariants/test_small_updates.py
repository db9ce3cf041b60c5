"""Trained parameters are float32 under bfloat16 autocast: a bfloat16 weight of 1 would lose an update of 1e-4."""

from __future__ import annotations

import re

import pytest
import torch

from tests.slow_cases import mostly_slow

METHODS = {
    "lora": ({"peft__method": "lora"}, ("lora_A", "lora_B")),
    "dora": ({"peft__method": "lora", "peft__use_dora": True}, ("lora_B", "lora_magnitude_vector")),
    "ia3": ({"peft__method": "ia3"}, ("ia3_l",)),
    "adalora": ({"peft__method": "adalora"}, ("lora_A", "lora_B", "lora_E")),
    "vera": ({"peft__method": "vera"}, ("vera_lambda_b", "vera_lambda_d")),
    "oft": ({"peft__method": "oft"}, ("oft_R",)),
    "qst": ({"peft__method": "qst", "peft__reduction_factor": 4}, ("gate", "blocks", "up")),
    "prompt-tuning": ({"peft__method": "prompt-tuning"}, ("prompt_encoder",)),
    "p-tuning": ({"peft__method": "p-tuning"}, ("prompt_encoder",)),
    "prefix-tuning": ({"peft__method": "prefix-tuning"}, ("prompt_encoder",)),
    "head-only": ({"peft__method": "head-only"}, ("classifier",)),
}
SETTINGS = {
    "model__dtype": "bfloat16",
    "training__bf16": True,
    "training__learning_rate": 1e-4,
    "training__max_steps": 10,
    "training__lr_scheduler_type": "constant",
    "training__save_strategy": "no",
    "training__eval_strategy": "no",
}
FREE_OF_GRADIENT = re.compile(r"\b(k|key)\.bias$")  # adds the same value to every score of a query


def train(run, names):
    trained = {name: each for name, each in run.trainer.model.named_parameters() if each.requires_grad}
    before = {name: each.detach().clone() for name, each in trained.items()}
    assert {each.dtype for each in trained.values()} == {torch.float32}
    run.trainer.train()
    assert {each.dtype for each in trained.values()} == {torch.float32}
    still = [name for name, old in before.items() if torch.equal(old, trained[name])]
    assert not [name for name in still if not FREE_OF_GRADIENT.search(name)]
    for part in names:
        assert any(part in name for name in trained), f"no {part} among {sorted(trained)}"
    frozen = {each.dtype for each in run.trainer.model.parameters() if not each.requires_grad}
    assert torch.bfloat16 in frozen, "the base keeps its stored dtype"


@pytest.mark.parametrize("quantization", [None, pytest.param("nf4", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", mostly_slow(METHODS, "lora", "qst", "prefix-tuning"))
def test_trained_parameters_of_a_classifier_are_float32_and_move(prepare_run, method, quantization):
    if method == "head-only" and quantization:
        pytest.skip("head-only is refused on a quantized base")
    keys, names = METHODS[method]
    peft = {"peft": {}, **keys}
    run = prepare_run("bert", model__quantization=quantization, **SETTINGS, **peft)
    train(run, (*names, "classifier"))


@pytest.mark.parametrize("quantization", [None, pytest.param("nf4", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "method", mostly_slow([each for each in METHODS if each != "head-only"], "dora", "qst", "p-tuning")
)
def test_trained_parameters_of_a_language_model_are_float32_and_move(prepare_run, make_sft, method, quantization):
    keys, names = METHODS[method]
    config = make_sft(model__quantization=quantization, **SETTINGS, **{"peft": {}, **keys})
    train(prepare_run(config=config), names)
