"""Muon updates matrices like torch's Muon and everything else like AdamW; a resumed run continues exactly."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from utils.optimizers import muon

ARGS: Any = SimpleNamespace(learning_rate=0.02, adam_beta1=0.9, adam_beta2=0.99, adam_epsilon=1e-8)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.linear = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embed(ids)).square().mean()


def _groups(model: Model) -> list[dict[str, Any]]:
    kept, bare = [model.embed.weight, model.linear.weight], [model.linear.bias]
    return [{"params": kept, "weight_decay": 0.1}, {"params": bare, "weight_decay": 0.0}]


def _step(model: Model, optimizers: list[torch.optim.Optimizer], count: int = 3) -> None:
    for number in range(count):
        model.zero_grad()
        model(torch.tensor([number % 7, 3, 5])).backward()
        for optimizer in optimizers:
            optimizer.step()


def test_each_part_equals_torchs_optimizer() -> None:
    ours, theirs = Model(), Model()
    _step(ours, [muon.build_optimizer(ours, _groups(ours), ARGS, muon.Config(muon_momentum=0.8))])
    matrix = [{"params": [theirs.linear.weight], "weight_decay": 0.1}]
    others = [
        {"params": [theirs.embed.weight], "weight_decay": 0.1},
        {"params": [theirs.linear.bias], "weight_decay": 0.0},
    ]
    plain = torch.optim.Muon(matrix, lr=0.02, momentum=0.8, adjust_lr_fn="match_rms_adamw")
    _step(theirs, [plain, torch.optim.AdamW(others, lr=0.02, betas=(0.9, 0.99), eps=1e-8)])
    for found, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_loaded_state_continues_exactly_and_schedules_reach_all_groups() -> None:
    whole, stopped, resumed = Model(), Model(), Model()
    first = muon.build_optimizer(whole, _groups(whole), ARGS, muon.Config())
    second = muon.build_optimizer(stopped, _groups(stopped), ARGS, muon.Config())
    _step(whole, [first], 4)
    _step(stopped, [second], 2)
    resumed.load_state_dict(stopped.state_dict())
    third = muon.build_optimizer(resumed, _groups(resumed), ARGS, muon.Config())
    third.load_state_dict(second.state_dict())
    for number in (2, 3):
        resumed.zero_grad()
        resumed(torch.tensor([number % 7, 3, 5])).backward()
        third.step()
    assert all(
        torch.equal(found, wanted) for found, wanted in zip(resumed.parameters(), whole.parameters(), strict=True)
    )
    for group in third.param_groups:
        group["lr"] = 0.0
        group["weight_decay"] = 0.0
    before = [each.clone() for each in resumed.parameters()]
    _step(resumed, [third])
    assert all(torch.equal(found, wanted) for found, wanted in zip(resumed.parameters(), before, strict=True))


def test_a_group_split_off_keeps_its_optimizer() -> None:
    model = Model()
    optimizer = muon.build_optimizer(model, _groups(model), ARGS, muon.Config())
    group = next(each for each in optimizer.param_groups if each["params"][0] is model.linear.weight)
    options = {key: value for key, value in group.items() if key != "params"}
    group["params"] = []
    optimizer.add_param_group({**options, "params": [model.linear.weight], "lr": 0.0, "weight_decay": 0.0})
    before = model.linear.weight.clone()
    _step(model, [optimizer])
    assert torch.equal(model.linear.weight, before)
    assert "momentum_buffer" in optimizer.state[model.linear.weight], "Muon's, not AdamW's"


def test_a_run_is_resumed_exactly(make_sft: Any, tmp_path: Path) -> None:
    config = make_sft(
        training__optim="muon", training__muon_momentum=0.9, training__max_steps=4, training__save_strategy="steps",
        training__save_steps=2, training__report_to="none", training__learning_rate=1e-3,
    )  # fmt: skip
    train = importlib.import_module("train")

    def run(*words: str) -> Path:
        arguments = train.build().parse_args(["--config", config.source, *words])
        arguments.overrides = []
        return Path(train.main(arguments)["output_dir"])

    folder = run()
    wanted = load_file(folder / "final_model" / "adapter_model.safetensors")
    for name in ("final_model", "checkpoint-4", "results.json"):
        (folder / name).rename(tmp_path / name)
    found = load_file(run("--resume") / "final_model" / "adapter_model.safetensors")
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        muon.Config(muon_momentum=1.0)
