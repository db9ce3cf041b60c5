"""A full record, as a classification run writes it."""

from __future__ import annotations

import pytest

from utils.results.record import BestMetric, DataCounts, ParamCounts, PeakMemory, RunRecord, Timing


@pytest.fixture
def record() -> RunRecord:
    return RunRecord(
        status="success",
        task_name="cola_qwen",
        task_type="SEQ_CLS",
        method="lora",
        seed=42,
        metrics={"matthews_correlation": 0.61, "accuracy": 0.83, "loss": 0.41},
        best_metric=BestMetric("matthews_correlation", 0.61, 800),
        metrics_last={"matthews_correlation": 0.6},
        interval={"matthews_correlation": [0.571, 0.648]},
        baseline={"matthews_correlation": 0.0, "accuracy": 0.69},
        evaluation={"gsm8k": {"em_strict": 0.42, "n": 1319, "protocol": "zero-shot"}},
        params=ParamCounts(2182144, 1545896448, 0.1412, 0.25),
        memory=PeakMemory("cuda", 1.31, 1.6, 3.2),
        time=Timing(812.0, 9.1, 95.1, 5210.0, 861.0),
        data=DataCounts(train_rows=8551, truncated_rows=3, dropped_rows=0, fingerprint="abc"),
        reload_check={"rows": 256, "max_difference": 0.0},
        warnings=["one row is empty"],
        config_fingerprint="def",
    )
