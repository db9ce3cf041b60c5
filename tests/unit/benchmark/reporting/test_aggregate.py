"""Means over seeds equal an independent computation; a missing score is neither counted as 0 nor dropped in silence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pandas import Series
from scipy import stats

from utils.benchmark.aggregate import Comparison, compare_settings, summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.reports import list_notes
from utils.benchmark.statistics import Stat, Summary, compute_stat
from utils.results.record import BestMetric, PeakMemory, Timing


def read(folder: Any, **facts: Any) -> Summary:
    return summarize(folder.facts(**facts), collect_outcomes(folder.runs))


def test_means_and_deviations_equal_numpys(folder: Any, fill: Any) -> None:
    tasks, methods, seeds = ("mrpc", "rte", "stsb"), ("lora", "full"), (3, 1, 2)
    records = fill(folder, tasks, methods, seeds)
    summary = read(folder)
    assert [(row.task, row.setting.method) for row in summary.rows] == [(t, m) for t in tasks for m in methods]
    for row in summary.rows:
        mine = [records[row.task, row.setting.method, seed] for seed in seeds]
        best = np.array([record.best_metric.value for record in mine])
        measured = row.measure("best")
        assert (measured.mean, measured.deviation, measured.n) == (
            pytest.approx(best.mean()), pytest.approx(best.std(ddof=1)), 3,
        )  # fmt: skip
        low, high = stats.t.interval(0.95, 2, best.mean(), stats.sem(best))
        assert measured.interval() == (pytest.approx(low), pytest.approx(high))
        assert row.measure("loss").mean == pytest.approx(np.mean([record.metrics["loss"] for record in mine]))
        assert row.measure("last").mean == pytest.approx(best.mean() - 0.006)
        assert row.measure("memory").mean == pytest.approx(1.7)
    for average in summary.averages:
        by_seed = [
            np.mean([records[task, average.setting.method, seed].best_metric.value for task in tasks]) for seed in seeds
        ]
        assert average.mean("best") == pytest.approx(np.mean(by_seed))
        over_seeds = average.measure_over_seeds()
        assert (over_seeds.deviation, over_seeds.n) == (pytest.approx(np.std(by_seed, ddof=1)), 3)
        assert average.num_runs == (9, 9)
        assert average.metrics == ("f1", "accuracy", "pearson")


def test_one_seed_has_no_deviation() -> None:
    assert compute_stat(Series([0.5])) == Stat(0.5, None, 1)
    assert Stat(0.5, None, 1).interval() is None
    assert compute_stat(Series([], dtype=float)) is None


@pytest.mark.parametrize("freedom", [1, 2, 9, 200])
def test_quantile(freedom: int) -> None:
    quantile = stats.t.ppf(0.975, freedom)
    assert Stat(0.0, (freedom + 1) ** 0.5, freedom + 1).interval() == (
        pytest.approx(-quantile),
        pytest.approx(quantile),
    )


def test_missing_and_failed_runs(folder: Any) -> None:
    runs = [folder.plan("rte", "lora", seed) for seed in (1, 2, 3, 4, 5)]
    folder.finish(runs[0], 0.7)
    folder.finish(runs[1], 0.6)
    folder.fail(runs[2])
    folder.fail(runs[3], "timed out", "stopped after 1 minute")
    other = folder.plan("cola", "lora", 1)
    summary = read(folder)
    row, missing = summary.rows
    assert [each.status for each in row.outcomes] == ["success", "success", "failed", "timed out", "missing"]
    assert (row.measure("best").n, row.measure("best").mean) == (2, pytest.approx(0.65))
    assert missing.outcomes[0].run is other
    assert missing.measure("best") is None
    (average,) = summary.averages
    assert average.missing == ("cola",)
    assert average.mean("best") is None
    assert average.num_runs == (2, 6)


def test_a_record_of_another_configuration_is_ignored(folder: Any) -> None:
    run = folder.plan("rte", "lora", 1)
    folder.finish(run, 0.9, config_fingerprint="another")
    (outcome,) = collect_outcomes(folder.runs)
    assert (outcome.status, outcome.record) == ("missing", None)
    assert "another configuration" in outcome.note


def test_unreadable_records_are_failures_with_a_reason(folder: Any) -> None:
    older, torn, thin = (folder.plan("rte", "lora", seed) for seed in (1, 2, 3))
    for run in (older, torn):
        folder.finish(run, 0.9)
    (older.folder / "results.json").write_text(json.dumps({"version": 0, "status": "success"}))
    (torn.folder / "results.json").write_text('{"version": 1, "sta')
    folder.finish(thin, 0.9, interval={}, metrics_last={}, baseline={}, time=Timing(), memory=PeakMemory())
    outcomes = collect_outcomes(folder.runs)
    assert [each.status for each in outcomes] == ["failed", "failed", "success"]
    assert "version 0" in outcomes[0].note
    assert "not JSON" in outcomes[1].note
    row = read(folder).rows[0]
    assert (row.measure("best").mean, row.measure("last").mean) == (0.9, 0.9)
    assert (row.measure("memory"), row.measure("seconds"), row.measure("interval_low")) == (None, None, None)


def test_the_reason_of_a_failure_comes_from_note_record_or_log(folder: Any) -> None:
    by_record, by_log = folder.plan("rte", "lora", 1), folder.plan("rte", "lora", 2)
    folder.finish(by_record, 0.1, status="failed", extra={"error": "ValueError: no\nsuch"})
    folder.fail(by_log, note="")
    by_log.log.parent.mkdir(parents=True)
    by_log.log.write_text("step 1\nerror: out of disk\n\n")
    first, second = collect_outcomes(folder.runs)
    assert (first.status, first.note) == ("failed", "ValueError: no such")
    assert (second.status, second.note) == ("failed", "error: out of disk")
    assert summarize(folder.facts(), [first, second]).rows[0].measure("best") is None


def test_undefined_metrics(folder: Any) -> None:
    run = folder.plan("stsb", "lora", 1)
    folder.finish(run, 0.9, metrics={"pearson": None, "loss": 1.0}, best_metric=BestMetric("pearson", None, 1))
    (row,) = read(folder).rows
    assert row.measure("best") is None
    assert row.measure("accuracy") is None
    assert row.measure("loss").mean == 1.0
    assert row.metric == "pearson"


def test_mnli_has_a_second_row_from_the_same_run(folder: Any) -> None:
    record = folder.finish(folder.plan("mnli", "lora", 1), 0.8)
    folder.plan("mnli", "full", 1)
    matched, _, mismatched, missing = read(folder).rows
    assert [row.task for row in read(folder).rows] == ["mnli", "mnli", "mnli-mm", "mnli-mm"]
    assert matched.measure("best").mean == record.metrics["accuracy"]
    assert mismatched.measure("best").mean == record.metrics["accuracy_mm"]
    assert mismatched.measure("loss").mean == record.metrics["loss_mm"]
    assert mismatched.measure("last") is None
    assert missing.measure("best") is None


def test_scores_of_different_evaluations_are_not_mixed(folder: Any) -> None:
    folder.finish(folder.plan("rte", "lora", 1), 0.8, device="cuda")
    folder.finish(folder.plan("rte", "lora", 2), 0.8, device="cpu")
    (row,) = read(folder).rows
    assert row.find_kinds("memory") == {"vram", "ram"}
    assert row.measure("memory") is None


def test_no_average_when_a_task_was_not_planned(folder: Any) -> None:
    folder.finish(folder.plan("rte", "lora", 1), 0.8)
    folder.finish(folder.plan("cola", "lora", 1), 0.6)
    folder.finish(folder.plan("rte", "full", 1), 0.8)
    lora, full = read(folder).averages
    assert (lora.mean("best"), lora.missing) == (pytest.approx(0.7), ())
    assert (full.mean("best"), full.mean("accuracy"), full.missing) == (None, None, ("cola",))


def test_losses_and_scores_have_no_average(folder: Any) -> None:
    folder.finish(folder.plan("rte", "lora", 1), 0.8)
    run = folder.plan("code", "lora", 1)
    folder.finish(run, 0.8, metrics={"loss": 1.2}, best_metric=BestMetric("loss", 1.2, 5))
    (average,) = read(folder).averages
    assert average.missing == ()
    assert average.mean("best") is None
    assert average.mean("trainable_percent") == pytest.approx(100 * 294_912 / 22_000_000)


def test_baselines_come_from_the_runs(folder: Any, fill: Any) -> None:
    fill(folder, ("mrpc", "stsb"), ("lora",), (1, 2))
    mrpc, stsb = (row for row in read(folder, baselines=("majority",)).rows if row.setting.is_baseline)
    assert mrpc.measure("best").mean == 0.81
    assert mrpc.measure("accuracy").mean == 0.527
    assert stsb.measure("best") is None


def test_sft_records(folder: Any) -> None:
    folder.finish(folder.plan("gsm8k", "lora", 1), 0.42)
    (row,) = read(folder).rows
    assert (row.metric, row.measure("best").mean) == ("em_strict", 0.42)
    assert row.measure("accuracy") is None


def compare(folder: Any, scores: dict[str, dict[int, float]], metric: str = "accuracy") -> Comparison:
    for method, by_seed in scores.items():
        for seed, score in by_seed.items():
            run = folder.plan("rte", method, seed)
            folder.finish(run, score, best_metric=BestMetric(metric, score, 1))
    (comparison,) = compare_settings(read(folder))
    return comparison


def test_better_requires_paired_seeds(folder: Any) -> None:
    lora, full = {1: 0.70, 2: 0.60, 3: 0.65, 9: 0.1}, {3: 0.70, 1: 0.76, 2: 0.653, 8: 0.9}
    found = compare(folder, {"lora": lora, "full": full})
    differences = [full[seed] - lora[seed] for seed in (3, 1, 2)]
    result = stats.ttest_rel([full[seed] for seed in (3, 1, 2)], [lora[seed] for seed in (3, 1, 2)])
    assert sorted(found.seeds) == [1, 2, 3]
    assert found.difference.mean == pytest.approx(np.mean(differences))
    low, high = result.confidence_interval(0.95)
    assert found.interval == (pytest.approx(low), pytest.approx(high))
    assert (found.finding, result.pvalue < 0.05) == ("better", True)


@pytest.mark.parametrize(
    ("lora", "full", "metric", "finding"),
    [
        ({1: 0.7}, {1: 0.9}, "accuracy", "no claim"),  # one common seed
        ({1: 0.7, 2: 0.7}, {3: 0.9, 4: 0.9}, "accuracy", "no claim"),  # none
        ({1: 0.7, 2: 0.6}, {1: 0.8, 2: 0.7}, "accuracy", "no claim"),  # the same difference twice
        ({1: 0.7, 2: 0.6}, {1: 0.9, 2: 0.5}, "accuracy", "not told apart"),
        ({1: 0.70, 2: 0.60, 3: 0.5}, {1: 0.60, 2: 0.501, 3: 0.402}, "loss", "better"),  # lower is better
        ({1: 0.70, 2: 0.60, 3: 0.5}, {1: 0.60, 2: 0.501, 3: 0.402}, "accuracy", "worse"),
    ],
)
def test_findings(folder: Any, lora: Any, full: Any, metric: str, finding: str) -> None:
    assert compare(folder, {"lora": lora, "full": full}, metric).finding == finding


def test_methods_are_compared_with_the_reference_methods(folder: Any, fill: Any) -> None:
    fill(folder, ("mrpc", "rte"), ("lora", "full", "head-only"), (1, 2))
    found = compare_settings(read(folder, references=("full", "head-only")))
    pairs = [(each.setting.method, each.reference.method) for each in found]
    assert pairs == 2 * [("lora", "full"), ("head-only", "full"), ("lora", "head-only"), ("full", "head-only")]
    there, back = found[1], found[3]
    assert there.difference
    assert back.difference
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    notes = list_notes(folder.facts(references=("full", "head-only")), read(folder), found)
    assert any("against full / head-only" in note for note in notes)
    assert compare_settings(read(folder, references=("gone",))) == []


def test_grid_values_are_settings(folder: Any) -> None:
    for rank in (16, 4):
        for seed in (1, 2):
            folder.finish(folder.plan("rte", "lora", seed, {"peft.lora_r": rank}), rank / 100 + seed / 1000)
    summary = read(folder)
    assert [dict(row.setting.grid) for row in summary.rows] == [{"peft.lora_r": 16}, {"peft.lora_r": 4}]
    assert [row.measure("best").mean for row in summary.rows] == [pytest.approx(0.1615), pytest.approx(0.0415)]
    assert len(compare_settings(summary)) == 1
