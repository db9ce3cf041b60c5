"""Training curves: a table of the logged steps, and charts of related quantities."""

from __future__ import annotations

import csv
import math

import pytest

from utils.results.curves import build_charts, render_csv, tabulate
from utils.results.labels import is_score

LOGS = [
    {"step": 0, "epoch": 0, "eval_sums_em_strict": 0.25, "eval_combined_score": 1.25},
    {"step": 10, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-3, "train_runtime": 3.1, "rewards/chosen": 0.5,
     "rewards/accuracies": 0.75, "train_tokens_per_second": 7.0, "num_input_tokens_seen": 99},
    {"step": 20, "epoch": 1.0, "loss": math.nan, "learning_rate": 5e-4, "rewards/chosen": 0.75,
     "rewards/accuracies": 1.0},
    {"step": 20, "epoch": 1.0, "eval_loss": 1.5, "eval_sums_em_strict": 0.5, "eval_runtime": 9.0},
    {"step": 20, "epoch": 1.0, "train_loss": 2.0, "total_flos": 1.0, "train_runtime": 12.0},
]  # fmt: skip


def test_the_table_holds_every_step_once_and_no_times():
    head, *rows = csv.reader(render_csv(LOGS).splitlines())
    assert head == [
        "step", "epoch", "learning_rate", "loss", "rewards/accuracies", "rewards/chosen", "eval_combined_score",
        "eval_loss", "eval_sums_em_strict",
    ]  # fmt: skip
    assert rows == [
        ["0", "0", "", "", "", "", "1.25", "", "0.25"],
        ["10", "0.5", "0.001", "2.0", "0.75", "0.5", "", "", ""],
        ["20", "1.0", "0.0005", "nan", "1.0", "0.75", "", "1.5", "0.5"],
    ]


def test_a_step_logged_twice_takes_its_last_entry():
    assert tabulate([{"step": 1, "loss": 3.0}, {"step": 1, "loss": 2.0}]) == {"loss": [(1, 2.0)]}


@pytest.mark.parametrize("logs", [[], [{"step": 1, "epoch": 1.0, "train_loss": 1.0}], [{"loss": 1.0}]])
def test_a_log_without_curves_has_no_charts(logs):
    assert build_charts(logs) == []


def test_charts_group_related_quantities():
    charts = {chart.title: [(each.name, each.points) for each in chart.series] for chart in build_charts(LOGS)}
    assert list(charts) == [
        "loss", "sums: scores x100", "combined score", "rewards", "accuracies x100", "learning rate",
    ]  # fmt: skip
    training, evaluation = charts["loss"]
    assert training[0] == "training"
    assert training[1][0] == (10, 2.0)
    assert math.isnan(training[1][1][1])
    assert evaluation == ("evaluation", ((20, 1.5),))
    assert charts["sums: scores x100"] == [("em_strict", ((0, 25.0), (20, 50.0)))]
    assert charts["accuracies x100"] == [("rewards", ((10, 75.0), (20, 100.0)))]
    assert charts["rewards"] == [("chosen", ((10, 0.5), (20, 0.75)))]
    assert [chart.title for chart in build_charts(LOGS, "zh")][-1] == "学习率"


def test_a_diverged_loss_has_a_logarithmic_axis():
    logs = [{"step": step, "loss": 10.0**step} for step in range(6)]
    assert build_charts(logs)[0].is_log_y
    assert not build_charts(logs[:2])[0].is_log_y


def test_trls_logged_rewards_are_not_percentages():
    assert [is_score(f"rewards/{name}") for name in ("accuracies", "margins", "chosen")] == [True, False, False]
    assert not any(map(is_score, ("kl", "reward", "logps/chosen")))
