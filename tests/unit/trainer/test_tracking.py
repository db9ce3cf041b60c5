"""What trackers are told of a run; the user's own words win. Real trackers: tests/commands/test_trackers.py."""

from __future__ import annotations

import json
import os

import pytest

from utils.run_config import load_run_config
from utils.trainer import tracking
from utils.trainer.tracking import name_run, tag_run


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_set_here", {})
    for name in ("WANDB_TAGS", "WANDB_PROJECT", "MLFLOW_TAGS", "TRACKIO_PROJECT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_a_run_is_called_as_its_folder_and_tagged_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_run_config("configs/quickstart.yaml", ["training.output_dir=out/a-lora-s7", "seed=7"])
    second = load_run_config("configs/quickstart.yaml", ["peft.method=head-only", "training.report_to=wandb",
                                                         "training.wandb.project=mine"])  # fmt: skip
    assert name_run(first) == {"run_name": "a-lora-s7"}
    monkeypatch.setenv("TRACKIO_PROJECT", "my suite")
    assert name_run(first) == {"run_name": "a-lora-s7", "project": "my suite"}
    tag_run(first)
    told = {"task": "quickstart", "method": "lora", "dataset": "custom", "seed": "7"}
    assert json.loads(os.environ["MLFLOW_TAGS"]) == told
    assert os.environ["WANDB_TAGS"] == "task:quickstart,method:lora,dataset:custom,seed:7"
    tag_run(second)  # the next run of this process
    assert "method:head-only" in os.environ["WANDB_TAGS"]
    assert os.environ["WANDB_PROJECT"] == "mine"
    monkeypatch.setenv("WANDB_TAGS", "by hand")
    tag_run(first)
    assert os.environ["WANDB_TAGS"] == "by hand"
