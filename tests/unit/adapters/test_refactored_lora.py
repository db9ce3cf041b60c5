"""The example extension: the product is kept, factors are balanced, plain peft loads it, a resumed run is exact."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from utils.core import registry

FOLDER = Path(__file__).parents[3] / "examples" / "extensions" / "refactored_lora"


@pytest.fixture
def method() -> Any:
    registry.add_folder(FOLDER)
    return registry.load("adapters", "refactored_lora")


def test_the_product_is_kept_and_the_factors_are_balanced(method: Any) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 20) * 5, torch.randn(30, 4) * 0.01
    product = b.double() @ a.double()
    scale = method.refactor(a, b)
    torch.testing.assert_close(scale * (b.double() @ a.double()), product, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a @ a.T, b.T @ b, rtol=1e-5, atol=1e-6)
    assert torch.linalg.matrix_norm(a, 2) == pytest.approx(1, abs=1e-5)
    untouched = torch.randn(4, 20), torch.zeros(30, 4)
    assert method.refactor(*(each.clone() for each in untouched)) is None, "before the first step B is zero"


def _train(config: Any, *, resume: bool = False) -> Path:
    train = importlib.import_module("train")
    words = ["--config", config.source, *(["--resume"] if resume else [])]
    arguments = train.build().parse_args(words)
    arguments.overrides = []
    return Path(train.main(arguments)["output_dir"])


def test_plain_peft_loads_it_and_a_resumed_run_is_the_same(make_sft: Any, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    keys = {
        "extensions": [str(FOLDER)],
        "peft": {"method": "refactored_lora", "lora_r": 4, "target_modules": "all-linear"},
        "training__max_steps": 8,
        "training__save_strategy": "steps",
        "training__save_steps": 5,
        "training__lr_scheduler_type": "restarts",
        "training__restart_every": 3,
        "training__restart_warmup_steps": 1,
        "training__restart_decay": 1,
        "training__report_to": "none",
    }
    run = _train(config := make_sft(**keys))
    adapter = run / "final_model"
    wanted = load_file(adapter / "adapter_model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(config.model.name_or_path)
    plain = PeftModel.from_pretrained(base, adapter)
    alphas = set(plain.peft_config["default"].alpha_pattern.values())
    assert len(alphas) > 1, "each layer has its own alpha"
    assert {module.lora_alpha["default"] for module in plain.modules() if hasattr(module, "lora_alpha")} == alphas
    for name in ("final_model", "checkpoint-8", "results.json"):
        (run / name).rename(tmp_path / name)
    again = _train(config, resume=True)
    found = load_file(again / "final_model" / "adapter_model.safetensors")
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    first, second = (
        file.read_text() for file in (tmp_path / "final_model" / "adapter_config.json", adapter / "adapter_config.json")
    )
    assert first == second
