"""Every LoRA initialisation: the saved adapter works on the unmodified base elsewhere, and a resumed run is exact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from utils.adapters.lora.inits import INITS
from utils.trainer.varlen_attention import plain_attention

TRAINED = [True, *(name for name in INITS if name not in ("loftq", "pissa_niter_16")), "pissa_niter_2"]
READER = Path(__file__).with_name("reload_adapters.py")
PEFT = {"method": "lora", "lora_r": 4, "lora_alpha": 8, "init_rows": 16}
STEPS = {"training__max_steps": 2, "training__eval_strategy": "no", "training__save_strategy": "no"}
"""Two steps: with B at zero, A gets its first gradient in the second."""


def _reload_in_a_new_process(kind, base, folders):
    subprocess.run([sys.executable, str(READER), kind, str(base), *map(str, folders)], check=True, timeout=300)


def _train_and_save(run, folder):
    """Train, save as the run's export does, and keep logits of some rows."""
    run.trainer.train()
    model = run.trainer.model.eval()
    model.save_pretrained(folder)
    rows = run.data.draw_training_rows(4, 1)
    longest = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [run.tokenizer.pad_token_id] * (longest - len(row["input_ids"])) for row in rows]
    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    torch.save(inputs, folder / "inputs.pt")
    with torch.no_grad(), plain_attention(model.get_base_model()):
        return model(**inputs).logits


def _compare(expected):
    for folder, trained in expected.items():
        found = torch.load(folder / "logits.pt")
        assert json.loads((folder / "adapter_config.json").read_text("utf-8"))["init_lora_weights"] in (
            True,
            "gaussian",
        )
        for name, logits in found.items():
            assert (logits - trained).abs().max() < 1e-4, (folder.name, name)


@pytest.mark.slow
def test_a_classifier_with_each_init_in_a_new_process(prepare_run, tmp_path):
    expected, base = {}, tmp_path / "base"
    for init in TRAINED:
        folder = tmp_path / f"adapter_{init}"
        peft = {**PEFT, "init_lora_weights": init}
        expected[folder] = _train_and_save(prepare_run("llama", peft=peft, **STEPS), folder)
    plain = prepare_run("llama", peft={"method": "none"}, **STEPS)
    plain.model.save_pretrained(base)  # with the head that the seed drew; adapters bring the trained one
    plain.tokenizer.save_pretrained(base)
    _reload_in_a_new_process("SEQ_CLS", base, expected)
    _compare(expected)


@pytest.mark.slow
def test_a_language_model_with_each_init_in_a_new_process(prepare_run, make_sft, tmp_path):
    expected = {}
    for init in TRAINED:
        folder = tmp_path / f"adapter_{init}"
        config = make_sft(peft={**PEFT, "init_lora_weights": init}, **STEPS)
        expected[folder] = _train_and_save(prepare_run(config=config), folder)
    _reload_in_a_new_process("CAUSAL_LM", config.model.location, expected)
    _compare(expected)


@pytest.mark.parametrize(
    "peft",
    [
        {"init_lora_weights": "pissa_niter_2", "loraplus_lr_ratio": 4},
        {"init_lora_weights": "corda", "lora_dropout": 0.1},
        {"init_lora_weights": "lora_ga", "use_dora": True},
        pytest.param({"init_lora_weights": "eva"}, marks=pytest.mark.slow),
        pytest.param({"init_lora_weights": "mica"}, marks=pytest.mark.slow),
    ],
    ids=lambda peft: peft["init_lora_weights"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(prepare_run, peft):
    keys = {"peft": {**PEFT, **peft}, "training__max_steps": 6, "training__load_best_model_at_end": False}
    keys |= {"training__save_strategy": "steps", "training__save_steps": 3, "training__save_total_limit": None}
    whole = prepare_run("bert", **keys)
    whole.trainer.train()
    resumed = prepare_run("bert", **keys)
    resumed.trainer.train(resume_from_checkpoint=f"{whole.config.training.output_dir}/checkpoint-3")
    assert resumed.trainer.state.global_step == whole.trainer.state.global_step == 6
    expected, actual = whole.trainer.model.state_dict(), resumed.trainer.model.state_dict()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_the_best_checkpoint_is_restored(prepare_run):
    """The checkpoint holds the converted form; the model in memory the raw one."""
    keys = {"peft": {**PEFT, "init_lora_weights": "pissa"}, "training__num_train_epochs": 3}
    run = prepare_run("bert", **keys, training__metric_for_best_model="loss", training__greater_is_better=True)
    run.trainer.train()
    best = run.trainer.state.best_model_checkpoint
    assert best
    run.trainer.model.save_pretrained(Path(best).parent / "taken_back")
    one, two = (
        load_file(folder / "adapter_model.safetensors") for folder in (Path(best), Path(best).parent / "taken_back")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
