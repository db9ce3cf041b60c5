"""Hyperparameter search: planned separately, on its own seeds, with the best setting reported."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.in_process import command
from utils.benchmark.choices import Choices
from utils.benchmark.plan import PlannedRun
from utils.benchmark.search import plan_suite
from utils.benchmark.state import RunState, find_status, write_state
from utils.benchmark.suite_reader import read_suite
from utils.core.errors import ConfigError
from utils.results.record import BestMetric, RunRecord, write_record

RATES = "search: {training.learning_rate: [1e-3, 1e-2, 3e-2]}"
METHODS = f"methods: {{lora: {{peft.method: lora, {RATES}}}, full: {{peft.method: none}}}}"
SUITE = f"tasks: {{a: {{}}}}\n{METHODS}\nseeds: [1, 2]\n"


@pytest.fixture
def plan(write_suite: Callable[..., Path]) -> Callable[..., Any]:
    return lambda text=SUITE: plan_suite(read_suite(write_suite(text)), Choices())


def finish(run: PlannedRun, score: float, metric: str = "matthews_correlation") -> None:
    record = RunRecord(
        status="success", task_name="a", task_type="SEQ_CLS", method=run.method, seed=run.seed, metrics={metric: score},
        best_metric=BestMetric(metric, score, 3), config_fingerprint=run.fingerprint,
    )  # fmt: skip
    write_record(run.folder, record)


def test_the_best_is_reported_on_seeds_not_used_to_choose_it(plan: Callable[..., Any]) -> None:
    first = plan()
    rates = ("0.001", "0.01", "0.03")
    tried = [run for run in first.runs if run.is_search]
    assert [run.name for run in tried] == [f"a-lora-search-learning_rate={rate}-s3" for rate in rates]
    assert [run.name for run in first.runs if not run.is_search] == ["a-full-s1", "a-full-s2"]
    assert first.pending == {("a", "lora", ""): 2}
    for run, score in zip(tried, (0.5, 0.7, 0.6), strict=True):
        assert plan().pending, "not all runs have ended"
        finish(run, score)
    second = plan()
    reported = [run for run in second.runs if run.method == "lora" and not run.is_search]
    assert [(run.name, run.config["training"]["learning_rate"]) for run in reported] == [
        ("a-lora-s1", 1e-2), ("a-lora-s2", 1e-2),
    ]  # fmt: skip
    assert not {run.seed for run in reported} & {run.seed for run in tried}
    assert [find_status(run) for run in second.runs if run.is_search] == ["done"] * 3
    assert any("the search has chosen training.learning_rate=0.01" in notice for notice in second.notices)


def test_a_candidate_is_scored_over_all_its_seeds(plan: Callable[..., Any]) -> None:
    text = SUITE + "search_seeds: [8, 9]\n"
    for run in (run for run in plan(text).runs if run.is_search):
        rate = run.config["training"]["learning_rate"]
        if (rate, run.seed) == (1e-2, 9):
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            write_state(run.folder, RunState("failed", run.fingerprint))
        else:
            finish(run, {1e-3: 0.5, 1e-2: 0.9, 3e-2: 0.6}[rate])
    assert [run.searched for run in plan(text).runs if run.name == "a-lora-s1"] == [{"training.learning_rate": 3e-2}]


def test_excluded_methods_are_not_searched(plan: Callable[..., Any]) -> None:
    text = SUITE.replace("{a: {}}", "{a: {}, b: {}}") + "exclude: [{task: b, method: lora}]\n"
    assert {run.task for run in plan(text).runs if run.is_search} == {"a"}
    assert not [run for run in plan(SUITE + "include: [{seed: 1, method: full}]\n").runs if run.is_search]


def test_a_lower_loss_is_better(plan: Callable[..., Any]) -> None:
    for run, loss in zip((run for run in plan().runs if run.is_search), (0.5, 0.7, 0.6), strict=True):
        finish(run, loss, "loss")
    assert [run.searched for run in plan().runs if run.name == "a-lora-s1"] == [{"training.learning_rate": 1e-3}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (SUITE + "search_seeds: [2, 5]\n", "search_seeds: [2] are seeds of the suite too"),
        (SUITE.replace("[1e-3, 1e-2, 3e-2]", "3e-2"), "needs a list of values, such as [4, 8]"),
        (SUITE.replace(RATES, "search: fast"), "methods.lora.search: needs keys with lists of values; found 'fast'"),
        (SUITE + "grid: {training.learning_rate: [1e-3]}\n", "training.learning_rate is in grid: too; keep one"),
        (SUITE.replace("learning_rate", "learning_rat"), "training.learning_rat: unknown key"),
        (SUITE.replace("training.learning_rate", "seed"), "seeds are written in seeds: at the top of the suite"),
    ],
)
def test_mistakes(text: str, sentence: str, plan: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(text)
    assert sentence in str(caught.value)


@pytest.mark.slow
def test_one_command_searches_and_reports(write_suite: Callable[..., Path], tmp_path: Path) -> None:
    answer = command("benchmark", "--config", write_suite(SUITE), "--seed", "1")
    assert answer["status"] == "success"
    rows = list(csv.DictReader((tmp_path / "out" / "runs.csv").read_text().splitlines()))
    assert [row["purpose"] for row in rows] == ["search"] * 3 + ["report"] * 2
    tried = {row["training.learning_rate"]: float(row["score"]) for row in rows if row["purpose"] == "search"}
    (reported,) = (row for row in rows if row["run"] == "a-lora-s1")
    assert tried[reported["training.learning_rate"]] == max(tried.values())
    text = (tmp_path / "out" / "results.md").read_text()
    assert "by seeds that are not reported" in text
    assert "search-" not in text, "search runs are not in the table"
