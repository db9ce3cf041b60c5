"""A custom task is one file in a folder: found, checked, trained, verified and reported like any other."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from train import run
from utils.core import registry
from utils.core.errors import ConfigError
from utils.runs.opening import open_run_folder
from utils.tasks.task import default_task, find_tasks, load_task


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    folder = Path(__file__).parent / "toy"
    registry.add_folder(folder)
    yield
    registry.remove_folder(folder)


def test_its_section_selects_it(make_config: Callable[..., Any]) -> None:
    config = make_config("bert", toy={"unit": 5})
    assert (config.task, config.task_type) == ("counting", "SEQ_CLS")
    assert load_task("counting").name() == "counting"
    assert list(find_tasks("SEQ_CLS")) == ["classification", "counting", "reward"]
    assert default_task("SEQ_CLS").name() == "classification"
    assert make_config("bert").task == "classification"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"unit": 0}, "toy.unit: "),
        ({"unitt": 5}, "toy.unitt: unknown key; did you mean unit?"),
        ({"unit": 100}, "toy.unit: more than dataset.max_length (32), so no text counts as 1"),
    ],
)
def test_its_mistakes_are_reported_with_those_of_the_file(
    section: dict[str, Any], said: str, make_config: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config("bert", toy=section)
    assert said in str(caught.value)


def test_a_task_type_without_a_default_task_needs_the_section(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_task("counting"), "TASK_TYPE", "COUNTING")
    registry._clear_caches()
    with pytest.raises(ConfigError, match="task_type: COUNTING needs the section of its task, toy:"):
        make_config("bert", task_type="COUNTING")
    with pytest.raises(KeyError):
        default_task("COUNTING")


def test_it_is_trained_verified_and_reported(make_config: Callable[..., Any]) -> None:
    config = make_config(
        "bert", toy={"unit": 5}, training__num_train_epochs=12, training__eval_strategy="epoch",
        training__load_best_model_at_end=True, training__early_stopping_patience=12, results__formats=["json", "xlsx"],
    )  # fmt: skip
    folder = open_run_folder(config)
    record = run(config, folder, time.monotonic())
    written = json.loads((folder.path / "results.json").read_text("utf-8"))
    assert (record.status, written["headline"], written["task_type"]) == ("success", "error_in_tokens", "SEQ_CLS")
    errors = [log["eval_loss"] ** 0.5 * 5 for log in _read_log(folder.path) if "eval_loss" in log]
    assert written["metrics"]["error_in_tokens"] == pytest.approx(min(errors), rel=1e-4)
    assert min(errors) < errors[0] / 2, "it learnt to count"
    assert written["reload_check"]["largest_logit_difference"] == 0
    assert written["params"]["trainable"] > 0
    assert "toy" in (folder.path / "final_model" / "run.yaml").read_text("utf-8")
    assert {"results.xlsx", "probe_logits.json", "best_model", "eval_results.json"} <= {
        p.name for p in folder.path.iterdir()
    }


def _read_log(run_folder: Path) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = json.loads((run_folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    return log
