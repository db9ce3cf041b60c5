"""The majority row comes from the runs' records; runs that disagree give none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from utils.benchmark.baselines import collect_baselines
from utils.benchmark.outcomes import RunOutcome
from utils.results.record import RunRecord


def test_majority_from_the_records(plan_of: Callable[..., Any]) -> None:
    first, second, other = plan_of("tasks: {a: {}, b: {}}\nseeds: [1, 2]\n").runs[:3]
    record = RunRecord("success", "a", "SEQ_CLS", "lora", baseline={"accuracy": 0.5, "loss": None})
    outcomes = [
        RunOutcome(first, "success", record),
        RunOutcome(second, "failed", replace(record, status="failed", baseline={"accuracy": 0.9})),
        RunOutcome(other, "missing", None),
    ]
    a, b = collect_baselines(["majority"], ["a", "b"], outcomes)
    assert (a.task, a.metrics, a.num_runs, a.note) == ("a", {"accuracy": 0.5, "loss": None}, 1, "")
    assert (b.task, b.metrics, b.note) == ("b", {}, "no finished run has measured it")
    outcomes[1] = RunOutcome(second, "success", replace(record, baseline={"accuracy": 0.6}))
    (a,) = collect_baselines(["majority"], ["a"], outcomes)
    assert (a.metrics, a.note) == ({}, "the runs differ in their data, and so in this")
    assert collect_baselines([], ["a"], outcomes) == []
