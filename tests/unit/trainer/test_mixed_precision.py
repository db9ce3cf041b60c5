"""A bfloat16 base trained under autocast works with any additional module trained in float32."""

from __future__ import annotations

import logging

import pytest

from tests.slow_cases import mostly_slow

CASES = {
    "head": ("llama", {"modules_to_save": ["lm_head"]}),
    "embeddings": ("llama", {"modules_to_save": ["embed_tokens"]}),
    "norms": ("llama", {"modules_to_save": ["input_layernorm", "norm"]}),
    "all biases": ("gpt2", {"bias": "all"}),
    "biases beside lora": ("gpt2", {"bias": "lora_only"}),
    "dora and head": ("llama", {"use_dora": True, "modules_to_save": ["lm_head"]}),
    "all weights": ("gpt2", None),
}


@pytest.fixture(scope="module")
def untied(tmp_path_factory, tiny_base):
    """Make a Llama whose output layer has its own weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("base") / "llama"
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_base("llama"))).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base("llama")).save_pretrained(folder)
    return folder


@pytest.fixture
def train(prepare_run, make_sft, make_set, tiny_base, untied):
    """Return a function that trains two steps and returns the trainer and the losses."""

    def run(family, peft, **overrides):
        rows = [{"prompt": f"w{n} good", "completion": f" w{n + 1} film w{n % 5}"} for n in range(8)]
        section = {"method": "none"} if peft is None else {"method": "lora", "lora_r": 4, **peft}
        config = make_sft(
            model__name_or_path=str(untied if family == "llama" else tiny_base(family)),
            dataset={"name": "custom", "path": str(make_set(train=rows, validation=rows[:4]))},
            sft={"max_length": 32}, peft=section, training__max_steps=2, training__learning_rate=1e-2, **overrides,
        )  # fmt: skip
        trainer = prepare_run(config=config).trainer
        trainer.train()
        return trainer, [log["loss"] for log in trainer.state.log_history if "loss" in log]

    return run


@pytest.mark.parametrize("name", mostly_slow(CASES, "head", "all weights"))
def test_half_precision_trains_as_single_precision(name, train, caplog):
    family, peft = CASES[name]
    expected = train(family, peft, model__dtype="float32")[1]
    with caplog.at_level(logging.INFO):
        trainer, found = train(family, peft, model__dtype="bfloat16", training__bf16=True)
    assert found == pytest.approx(expected, rel=2e-2)
    assert found[0] != found[1]
    trained = {each.dtype for each in trainer.model.parameters() if each.requires_grad}
    assert {str(each) for each in trained} == {"torch.float32"}
    told = " ".join(each.message for each in caplog.records)
    assert "batches are padded" not in told, "the probe of attention must not fail for precision"
    assert "in its own way" not in told, "nor that of the head"
    assert trainer.data_collator.padding_free
