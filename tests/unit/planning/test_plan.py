"""Memory plans compared with what a real step allocates, and which GPUs they fit on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.commands.in_process import command
from utils.core.errors import UserError
from utils.planning.memory import LiveBytes, Memory, count_states, measure_step, plan_memory
from utils.planning.plan import GIB, Plan, shorten_run, show_plan
from utils.run_config import load_run_config

ROOT = Path(__file__).parents[3]


def real_step(config, tokens: int) -> tuple[int, int]:
    """Return the peak bytes of a real training step of the embedded base, and its weights' bytes."""
    from transformers import AutoModelForCausalLM

    from utils.adapters.adapter import AttachContext, load_adapter

    base = AutoModelForCausalLM.from_pretrained(config.model.name_or_path, attn_implementation="sdpa")
    model = load_adapter(config.peft.method).attach(base, config.peft, AttachContext("CAUSAL_LM", False, seed=0))
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    return measure_step(model.train(), True, (1, tokens), None, is_summed=False), weights


@pytest.mark.parametrize("method", ["lora", "none", "prefix-tuning", "qst"])
def test_a_simulated_step_allocates_like_a_real_one(method):
    config = load_run_config("quickstart_sft", [f"peft.method={method}", "training.learning_rate=null"])
    counts, memory = plan_memory(config, None, (1, 200))
    step, weights = real_step(config, 200)
    assert memory.weights == weights
    assert memory.step == pytest.approx(step, rel=0.2)  # kernels differ in the memory they keep
    assert memory.optimizer == 2 * memory.gradients == 8 * counts.trainable


def test_paged_optimizers_keep_what_the_others_do():
    states = {
        "adamw_torch": 2,
        "paged_adamw_8bit": 2,
        "lion_8bit": 1,
        "paged_lion_8bit": 1,
        "paged_ademamix": 3,
        "sgd": 0,
    }
    assert {name: count_states(name) for name in states} == states


def test_live_bytes_count_only_storages_in_use():
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view = first[10:]
        second = first + view.sum()
        del first, view
        third = second * 2
    assert live.peak == 3 * 4000 - 4000 + 4  # at most two of them at once, and a sum
    assert live.now == 8000
    assert third.numel() == 1000


def test_four_bits_are_counted_with_their_scales():
    words = ["model.quantization=nf4", "peft.lora_r=1"]
    config = load_run_config("quickstart_sft", words, files=False)
    _, packed = plan_memory(config, None, (1, 32))
    _, plain = plan_memory(load_run_config("quickstart_sft", ["model.dtype=bfloat16", "peft.lora_r=1"]), None, (1, 32))
    linear = 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 320)  # the embedded base's layers; its head is not packed
    assert plain.weights - packed.weights == pytest.approx(linear * (2 - 0.5 - 1 / 64 - 4 / 64 / 256), rel=0.01)


def test_the_command_plans_rows_steps_and_time(capsys):
    words = ("--rate", "1000", "--card", "t4")
    answer = command("utils.planning.command", "quickstart", *words)
    assert answer["params"]["trainable"] == 71_936
    assert (answer["rows"], answer["steps"]) == (2400, 900)
    assert answer["hours"] == pytest.approx(answer["tokens"] / 1000 / 3600, abs=1e-3)
    assert answer["card"]["fits"]
    assert "16 x 20 tokens at once" in capsys.readouterr().out
    assert command("train", "--config", "quickstart", "--plan", *words) == answer


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off hub requests, which would be retried again and again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def test_without_the_rows_the_full_length_is_assumed(offline):
    nobody = ["dataset.path=nobody/has_this", "evaluation.sets=null"]
    answer = command("train", "--config", "quickstart_sft", "--plan", *nobody)
    assert answer["longest_batch"] == {"rows": 32, "tokens_of_each": 256}
    assert "all are taken to be 256 tokens" in answer["note"]
    assert "steps" not in answer


@pytest.mark.parametrize(
    ("weights", "step", "fits", "said"),
    [
        (4, 4, True, "fits; about 9 rows"),
        (8, 16, False, "does not fit; 1 rows"),
        (20, 4, False, "model.quantization: nf4"),
    ],
)
def test_a_plan_that_does_not_fit_names_settings_that_would(weights, step, fits, said):
    config = load_run_config("quickstart_sft", ["training.gradient_checkpointing=true"])
    counts, _ = plan_memory(config, None, (1, 8))
    memory = Memory(weights * GIB, 0, 0, step * GIB)
    answer = show_plan(Plan(counts, memory, (4, 512), None, None, None), config, "v100-16g", None)
    assert answer["card"]["fits"] == fits
    assert said in answer["card"]["sentence"]


def test_a_base_without_a_local_config_is_refused_in_one_sentence(offline):
    with pytest.raises(UserError, match="nobody/nothing"):
        command("train", "--config", "quickstart_sft", "--plan", "model.name_or_path=nobody/nothing")


def test_a_run_with_early_stopping_can_be_probed(tmp_path):
    evaluated = ["training.eval_strategy=epoch", "training.save_strategy=epoch", "training.eval_on_start=true",
                 "training.early_stopping_patience=3", "training.lr_scheduler_type=reduce_lr_on_plateau"]  # fmt: skip
    written = {
        "quickstart": evaluated,
        "quickstart_sft": ["evaluation.steps=5", "training.save_steps=5", "training.early_stopping_patience=3",
                           "evaluation.retention=[{name: gsm8k, path: examples/quickstart/sums}]"],
    }  # fmt: skip
    for name, words in written.items():
        config = load_run_config(name, words, files=False)
        file = tmp_path / f"{name}.yaml"
        file.write_text(config.to_yaml())
        probed = load_run_config(file, shorten_run(config, tmp_path / "run"), files=False)
        assert probed.arguments["eval_strategy"] == "no"
        assert not probed.evaluation.is_used
        assert not probed.evaluation.retention_sections


def test_a_plan_is_in_the_language_of_the_run(capsys):
    command("utils.planning.command", "quickstart", "--card", "t4", "--rate", "1000", "results.language=zh")
    shown = capsys.readouterr().out
    assert "参数      共859,520, 训练71,936 (8.369 %)" in shown
    assert "t4        放得下; 约可放" in shown
    assert not re.search("trained|weights|fits|rows", shown)
