"""The majority baseline comes from the runs' records; runs that disagree give none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from utils.benchmark.outcomes import RunOutcome, read_majority
from utils.results.record import RunRecord


def test_majority_from_the_records(plan_of: Callable[..., Any]) -> None:
    first, second, other = plan_of("tasks: {a: {}, b: {}}\nseeds: [1, 2]\n").runs[:3]
    record = RunRecord("success", "a", "SEQ_CLS", "lora", baseline={"accuracy": 0.5, "loss": None})
    outcomes = [
        RunOutcome(first, "success", record),
        RunOutcome(second, "failed", replace(record, status="failed", baseline={"accuracy": 0.9})),
    ]
    assert read_majority(outcomes) == ({"accuracy": 0.5, "loss": None}, "")
    assert read_majority([RunOutcome(other, "missing", None)]) == ({}, "no finished run has measured it")
    outcomes[1] = RunOutcome(second, "success", replace(record, baseline={"accuracy": 0.6}))
    assert read_majority(outcomes) == ({}, "not the same in all runs: their data differ")
    both = [{"accuracy": score, "f1": 0.7} for score in (0.5, 0.6)]
    outcomes = [
        RunOutcome(each.run, "success", replace(record, baseline=own)) for each, own in zip(outcomes, both, strict=True)
    ]
    assert read_majority(outcomes) == ({"f1": 0.7}, "not the same in all runs: their data differ")
