"""Suite folders with known records, as finished, failed and missing runs leave them."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.outcomes import SuiteFacts
from utils.benchmark.plan import PlannedRun
from utils.benchmark.state import RunState, write_state
from utils.results.record import BestMetric, ParamCounts, PeakMemory, RunRecord, Timing, write_record

OWN_METRIC = {"cola": "matthews_correlation", "mrpc": "f1", "qqp": "f1", "stsb": "pearson", "gsm8k": "em_strict"}
SHARES = {"lora": (294_912, 22_000_000), "full": (21_700_000, 21_700_000), "qst": (150_001, 21_800_000)}


def build_record(task: str, method: str, seed: int, score: float, device: str = "cuda") -> RunRecord:
    """Build a record as a run of this task writes it."""
    metric = OWN_METRIC.get(task, "accuracy")
    metrics: dict[str, float | None] = {"loss": 0.4 + seed / 100, metric: score}
    if task == "gsm8k":
        metrics |= {"invalid_rate": 0.01}
    elif task == "stsb":
        metrics |= {"spearmanr": score - 0.002, "mse": 0.6}
    else:
        metrics |= {"accuracy": score if metric == "accuracy" else score - 0.05, "f1": score - 0.01}
        metrics |= {"matthews_correlation": score - 0.3} | {metric: score}
    if task == "mnli":
        metrics |= {"accuracy_mm": score + 0.003, "loss_mm": 0.39, "f1_mm": score - 0.004}
    trainable, total = SHARES.get(method, (1000 + seed, 20_000_000))
    memory = PeakMemory("cuda", 1.5 + seed / 10, 2.0, 3.1) if device == "cuda" else PeakMemory("cpu", None, None, 0.8)
    return RunRecord(
        status="success",
        task_name=task,
        task_type="CAUSAL_LM" if task == "gsm8k" else "SEQ_CLS",
        method=method,
        seed=seed,
        metrics=metrics,
        best_metric=BestMetric(metric, score, 100),
        metrics_last={metric: score - 0.006, "loss": 0.5},
        interval={metric: [score - 0.03, score + 0.02]},
        baseline={} if task in ("stsb", "gsm8k") else {"accuracy": 0.527, "f1": 0.81, "matthews_correlation": 0.0},
        params=ParamCounts(trainable, total, 100 * trainable / total, 100 * trainable / total * 1.7),
        memory=memory,
        time=Timing(123.4 + seed, 5.0, 88.8 - seed, 4000.0, 150.0),
    )


class SuiteFolder:
    """A suite's folder, filled by the tests run by run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[PlannedRun] = []

    def plan(self, task: str, method: str, seed: int, grid: dict[str, Any] | None = None, **config: Any) -> PlannedRun:
        """Plan a run that has not started."""
        name = "-".join([task, method, *map(str, (grid or {}).values()), f"s{seed}"])
        plain = "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
        dataset = {"name": "glue" if task != "gsm8k" else "gsm8k", "subset": task}
        whole = {"seed": seed, "peft": {"method": method}, "dataset": dataset, "model": {"token": None}, **config}
        folder = self.path / "runs" / f"{plain}-{len(self.runs)}"
        log = self.path / "logs" / f"{plain}.log"
        run = PlannedRun(name, task, method, seed, grid or {}, folder, log, whole, f"print-{len(self.runs)}", None)
        self.runs.append(run)
        return run

    def finish(self, run: PlannedRun, score: float, device: str = "cuda", **changes: Any) -> RunRecord:
        """Record a run as successful."""
        record = build_record(run.task, run.method, run.seed, score, device)
        record = dataclasses.replace(record, **{"config_fingerprint": run.fingerprint, **changes})
        write_record(run.folder, record)
        facts = {"started": f"2026-01-0{1 + run.seed % 9}T00:00:00Z", "ended": "2026-01-31T00:00:00Z"}
        facts |= {"versions": {"torch": "2.13.0"}, "command": "train.py"}
        (run.folder / "provenance.json").write_text(json.dumps(facts))
        (run.folder / "all_results.json").write_text(json.dumps({"epoch": 3.0}))
        return record

    def fail(self, run: PlannedRun, status: Any = "failed", note: str = "it ran out of memory") -> None:
        """Record a run as failed, timed out or interrupted."""
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        write_state(run.folder, RunState(status, run.fingerprint, note=note))

    def facts(self, **changes: Any) -> SuiteFacts:
        """Describe the suite."""
        tasks = tuple(dict.fromkeys(run.task for run in self.runs))
        methods = tuple(dict.fromkeys(run.method for run in self.runs))
        return dataclasses.replace(SuiteFacts("glue_methods", "glue_methods.yaml", tasks, methods), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> SuiteFolder:
    return SuiteFolder(tmp_path)


@pytest.fixture
def fill() -> Callable[..., dict[tuple[str, str, int], RunRecord]]:
    """Return a function that fills a folder with tasks x methods x seeds of random scores."""

    def fill_folder(
        folder: SuiteFolder, tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], device: str = "cuda"
    ) -> dict[tuple[str, str, int], RunRecord]:
        scores = random.Random(0)
        return {
            (task, method, seed): folder.finish(folder.plan(task, method, seed), scores.uniform(0.6, 0.9), device)
            for task in tasks
            for method in methods
            for seed in seeds
        }

    return fill_folder
