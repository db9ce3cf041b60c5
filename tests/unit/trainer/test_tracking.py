"""What trackers receive; the user's own settings win. Real trackers: tests/commands/test_trackers.py."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from utils.core.errors import UserError
from utils.core.secrets import learn_value
from utils.results.record import BestMetric, RunRecord
from utils.run_config import load_run_config
from utils.trainer import tracking
from utils.trainer.tracking import name_run, report_run, tag_run


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_set_here", {})
    for name in ("WANDB_TAGS", "SWANLAB_TAGS", "WANDB_PROJECT", "MLFLOW_TAGS", "TRACKIO_PROJECT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def test_a_run_is_named_after_its_folder_and_tagged(monkeypatch: pytest.MonkeyPatch) -> None:
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


SET = {"em_strict": 0.5, "num_scored": {"em_strict": 4}, "n": 4}
RECORD = RunRecord(
    "success", "tiny", "CAUSAL_LM", "lora", metrics={"loss": 1.25, "em_strict": 0.5},
    best_metric=BestMetric("loss", 1.25, 30), evaluation={"sums": SET, "combined": {"combined_score": 0.5}},
)  # fmt: skip


def test_tensorboard_has_the_configuration_and_the_final_scores(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn_value("token", "a-secret-in-a-name")
    config = load_run_config("quickstart", [f"training.output_dir={tmp_path}", "task_name=a-secret-in-a-name"])
    report_run(config, RECORD)
    board = EventAccumulator(str(tmp_path / "logs")).Reload()
    found = {name: [(each.step, each.value) for each in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert found == {
        "final/loss": [(30, 1.25)], "final/em_strict": [(30, 0.5)], "final/sums/em_strict": [(30, 0.5)],
    }  # fmt: skip
    text = board.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    peft:\n      method: lora\n" in text
    assert "a-secret" not in text


def test_an_unreachable_tracker_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        report_run(load_run_config("quickstart", [f"training.output_dir={tmp_path}"]), RECORD)
    assert "tensorboard: the final scores could not be logged" in caplog.text


def _follow(prepare_run: Any, **settings: Any) -> tuple[Any, Any]:
    run = prepare_run("bert", training__report_to="tensorboard", training__logging_steps=1, training__max_steps=3,
                      training__eval_strategy="no", training__save_strategy="no",
                      training__load_best_model_at_end=False, **settings)  # fmt: skip
    handler = run.trainer.callback_handler
    (tracker,) = (each for each in handler.callbacks if type(each).__name__ == "TensorBoardCallback")
    return run.trainer, tracker


def test_a_tracker_that_fails_during_a_run_is_dropped(prepare_run: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Break(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            tracker.tb_writer = "broken"

    trainer, tracker = _follow(prepare_run)
    trainer.add_callback(Break())
    with caplog.at_level(logging.WARNING, "utils"):
        trainer.train()
    assert trainer.state.global_step == 3
    said = [each.getMessage() for each in caplog.records if "the run continues without it" in each.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("tensorboard failed (AttributeError: 'str' object has no attribute")


def test_a_tracker_that_cannot_start_is_refused(prepare_run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trainer, _ = _follow(prepare_run, training__logging_dir=str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"training.report_to: tensorboard cannot start \(.*leave it out"):
        trainer.train()
