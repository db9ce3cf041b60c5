"""Columns have the order and names that readers of the spreadsheet know."""

from __future__ import annotations

from typing import Any

import pytest

from utils.benchmark.aggregate import summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.tables import build_run_table, build_summary_table, show_status

ENGLISH = (
    "task", "best accuracy (%)", "trainable share (%)", "peak memory (GB)", "total parameters",
    "trainable parameters", "loss", "F1", "Matthews", "Pearson", "Spearman",
)  # fmt: skip
CHINESE = (
    "任务", "最佳准确率(%)", "可训练参数占比(%)", "显存峰值(GB)", "总参数", "可训练参数", "Loss", "F1",
    "Matthews相关系数", "Pearson相关系数", "Spearman相关系数",
)  # fmt: skip
AFTER = (
    "trainable_percent_packed", "task_metric", "task_metric_best", "task_metric_last", "interval_low",
    "interval_high", "interval_over", "mean", "deviation", "num_seeds", "epochs", "train_runtime", "samples_per_s",
    "status",
)  # fmt: skip


def build(folder: Any, language: Any = "en", **facts: Any) -> Any:
    return build_summary_table(summarize(folder.facts(**facts), collect_outcomes(folder.runs)), language)


def cells_of(table: Any, number: int) -> dict[str, Any]:
    return dict(zip(table.keys, table.rows[number].cells, strict=True))


@pytest.mark.parametrize(("language", "expected"), [("en", ENGLISH), ("zh", CHINESE)])
def test_order_and_names(folder: Any, fill: Any, language: Any, expected: Any) -> None:
    fill(folder, ("rte", "stsb"), ("qst",), (42,))
    table = build(folder, language)
    assert table.labels[: len(expected)] == expected
    assert table.keys[len(expected) :] == AFTER


def test_rows_are_identified_by_method_and_grid(folder: Any) -> None:
    folder.finish(folder.plan("rte", "lora", 1, {"peft.lora_r": 4}), 0.8)
    folder.finish(folder.plan("rte", "full", 1), 0.8)
    table = build(folder)
    assert table.labels[:4] == ("task", "method", "lora_r", "best accuracy (%)")
    assert [[cell.value for cell in row.cells[:3]] for row in table.rows] == [["rte", "lora", 4], ["rte", "full", None]]
    assert table.num_fixed == 3


def test_markers(folder: Any) -> None:
    folder.finish(folder.plan("stsb", "lora", 1), 0.88, device="cpu")
    folder.finish(folder.plan("rte", "lora", 1), 0.7, device="cuda")
    table = build(folder)
    stsb, rte, average = (cells_of(table, number) for number in range(3))
    assert (stsb["best_accuracy"].value, stsb["best_accuracy"].mark) == (pytest.approx(88), "*")
    assert (stsb["peak_memory_gb"].value, stsb["peak_memory_gb"].mark) == (0.8, " RAM")
    assert (rte["best_accuracy"].mark, rte["peak_memory_gb"].mark) == ("", "")
    assert (rte["peak_memory_gb"].value, rte["pearson"].value) == (1.6, None)
    assert (average["best_accuracy"].value, average["best_accuracy"].mark) == (pytest.approx(79), "*")
    assert average["peak_memory_gb"].value is None  # GPU and RAM do not mix


def test_a_loss_is_not_multiplied(folder: Any) -> None:
    from utils.results.record import BestMetric

    run = folder.plan("gsm8k", "lora", 1)
    folder.finish(
        run, 0.4, metrics={"loss": 1.23}, best_metric=BestMetric("loss", 1.23, 1), metrics_last={}, interval={}
    )
    cells = cells_of(build(folder), 0)
    assert (cells["task_metric_best"].value, cells["mean"].value, cells["loss"].value) == (1.23, 1.23, 1.23)
    assert (cells["best_accuracy"].value, cells["f1"].value, cells["interval_over"].value) == (None, None, None)


def test_interval_label_names_what_it_covers(folder: Any) -> None:
    folder.finish(folder.plan("rte", "lora", 1), 0.7)
    for seed in (1, 3):
        folder.finish(folder.plan("rte", "full", seed), 0.7 + seed / 100)
    one, two = (cells_of(build(folder), number) for number in range(2))
    assert (one["interval_low"].value, one["interval_high"].value) == (pytest.approx(67), pytest.approx(72))
    assert (one["interval_over"].value, one["deviation"].value, one["num_seeds"].value) == ("rows", None, 1)
    assert (two["interval_over"].value, two["num_seeds"].value) == ("seeds", 2)
    assert two["interval_low"].value == pytest.approx(72 - 12.7062 * 2**0.5 / 2**0.5, abs=1e-3)


def test_statuses(folder: Any) -> None:
    first, second, _ = (folder.plan("rte", "lora", seed) for seed in (1, 2, 3))
    folder.finish(first, 0.7)
    folder.fail(second, "timed out")
    folder.plan("cola", "lora", 1)
    rows = summarize(folder.facts(), collect_outcomes(folder.runs)).rows
    assert [show_status(row, "en") for row in rows] == ["1/3; seed 2: timed out; seed 3: missing", "missing"]
    assert [show_status(row, "zh") for row in rows] == ["1/3; 种子2: 超时; 种子3: 缺失", "缺失"]
    table = build(folder)
    assert cells_of(table, 1)["best_accuracy"].value == cells_of(table, 1)["task_metric_best"].value == "missing"
    assert not table.rows[0].is_complete
    assert cells_of(table, 2)["status"].value == "1 of 4 runs; no result on cola"
    assert cells_of(table, 2)["mean"].value is None


def test_every_run_has_its_own_row(folder: Any) -> None:
    folder.finish(folder.plan("mnli", "lora", 3), 0.8)
    folder.fail(folder.plan("mnli", "lora", 1), note="no space left")
    table = build_run_table(summarize(folder.facts(), collect_outcomes(folder.runs)), "en")
    rows = [{key: cell.value for key, cell in zip(table.keys, row.cells, strict=True)} for row in table.rows]
    assert [(row["task"], row["seed"], row["status"]) for row in rows] == [
        ("mnli", 3, "success"), ("mnli", 1, "failed"), ("mnli-mm", 3, "success"), ("mnli-mm", 1, "failed"),
    ]  # fmt: skip
    assert (rows[1]["note"], rows[1]["best_accuracy"], rows[1]["loss"]) == ("no space left", "failed", None)
    assert (rows[2]["best_accuracy"], rows[0]["epochs"]) == (pytest.approx(80.3), 3)


def test_settings_have_names(folder: Any) -> None:
    folder.plan("rte", "lora", 1, {"peft.lora_r": 4, "training.learning_rate": 1e-4})
    summary = summarize(folder.facts(), collect_outcomes(folder.runs))
    assert summary.name_setting(summary.settings[0]) == "lora, lora_r=4, learning_rate=0.0001"


def test_retention_scores_have_their_own_columns(folder: Any) -> None:
    def kept(change: float) -> dict[str, Any]:
        facts = {"base": 8.0, "tuned": 8.0 + change, "difference": change, "interval": [change - 1, change + 1]}
        return {"held": {"n": 3, "metrics": {"perplexity": facts}}}

    folder.finish(folder.plan("rte", "lora", 1), 0.8, retention=kept(2.0))
    folder.finish(folder.plan("rte", "lora", 2), 0.8, retention=kept(4.0))
    summary = summarize(folder.facts(), collect_outcomes(folder.runs))
    means = cells_of(build_summary_table(summary, "en"), 0)
    assert means["retention held perplexity, difference"].value == 3.0
    assert "retention held perplexity, difference, low" not in means
    single = cells_of(build_run_table(summary, "en"), 1)
    assert single["retention held perplexity, tuned"].value == 12.0
    assert single["retention held perplexity, difference, low"].value == 3.0
