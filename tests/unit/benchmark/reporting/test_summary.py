"""The terminal's summary states how many runs it covers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console

from utils.benchmark.aggregate import summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.summary import list_totals, render_summary


def test_totals(folder: Any, fill: Any) -> None:
    records = fill(folder, ("rte", "stsb", "mnli"), ("lora",), (1, 2))
    folder.fail(folder.plan("cola", "lora", 1))
    outcomes = collect_outcomes(folder.runs)
    totals = list_totals(folder.facts(), summarize(folder.facts(), outcomes), outcomes)
    names = {"rte": "accuracy", "stsb": "pearson", "mnli": "accuracy"}
    accuracy = 100 * np.mean([record.metrics[names[task]] for (task, _, _), record in records.items()])
    behind = "mean of 3 of 4 table rows, 6 of 7 runs"
    assert totals == [
        ("tasks done", "3 / 4"),
        ("runs done", "6 / 7"),
        ("mean accuracy (%)", f"{accuracy:.2f} ({behind}); Pearson x100 for stsb"),
        ("mean trainable share (%)", f"1.34 ({behind})"),
        ("mean peak memory (GB)", "1.65 GPU (6 of 7 runs)"),
        ("largest peak memory (GB)", "1.70 GPU"),
    ]


def test_the_terminal_names_collapsed_and_partial_runs(folder: Any) -> None:
    for seed, score in ((1, 0.6), (2, 0.5), (3, 0.51)):
        extra = {"partial": {"rows": 10}} if seed == 2 else {}
        folder.finish(folder.plan("rte", "lora", seed), score, extra=extra)
    suite, outcomes = folder.facts(), collect_outcomes(folder.runs)
    summary = summarize(suite, outcomes)
    baseline = outcomes[0].record.baseline["accuracy"]
    file = io.StringIO()
    Console(file=file, width=110).print(render_summary(suite, summary, outcomes))
    text = " ".join(file.getvalue().split())
    assert f"{sum(score <= baseline for score in (0.6, 0.5, 0.51))} collapsed" in text
    assert "scored on a part of the rows 1 of 3 runs" in text
    assert ("scored on a part of the rows", "1 of 3 runs") in list_totals(suite, summary, outcomes)


def test_nothing_done(folder: Any) -> None:
    folder.plan("rte", "lora", 1)
    outcomes = collect_outcomes(folder.runs)
    totals = list_totals(folder.facts(), summarize(folder.facts(), outcomes), outcomes)
    assert totals == [("tasks done", "0 / 1"), ("runs done", "0 / 1")]


def test_table(folder: Any) -> None:
    folder.finish(folder.plan("rte", "[red]lora[/red]", 1), 0.7, "cpu")
    folder.plan("rte", "full", 1)
    file = io.StringIO()
    suite, outcomes = folder.facts(baselines=("majority",)), collect_outcomes(folder.runs)
    Console(file=file, width=110).print(render_summary(suite, summarize(suite, outcomes), outcomes))
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert "rte [red]lora[/red] 70.00 0.0050 0.80 RAM success" in lines
    assert "full missing - - missing" in lines
    assert "majority 52.70 - -" in lines
    assert "task metric rte: accuracy" in lines


def test_differences(folder: Any) -> None:
    for method, add in (("lora", 0.0), ("full", 0.01)):
        for seed in (1, 2, 3):
            folder.finish(folder.plan("rte", method, seed), 0.6 + add * (9 + seed) + seed / 1000, "cpu")
    file = io.StringIO()
    suite, outcomes = folder.facts(), collect_outcomes(folder.runs)
    summary = summarize(suite, outcomes)
    Console(file=file, width=80).print(render_summary(suite, summary, outcomes))
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert "rte full lora +11.00 +8.52 .. +13.48 better" in lines
    assert [label for label, _ in list_totals(suite, summary, outcomes)][2:] == [
        "mean peak memory (GB)",
        "largest peak memory (GB)",
    ]
