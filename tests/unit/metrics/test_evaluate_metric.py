"""Our metrics as evaluate.Metric objects: offline, in batches, the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from utils.metrics.evaluate_metric import build_evaluate_metric
from utils.metrics.metric import load_metric, result_key
from utils.rooms import list_rooms


@pytest.mark.parametrize("name", list_rooms("metrics"))
def test_batches_give_what_compute_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    import evaluate

    monkeypatch.setattr(socket, "socket", None)
    rng = np.random.default_rng(5)
    metric = load_metric(name)
    num_labels = 3 if metric.kind == "classification" else 1
    predictions, references = rng.integers(3, size=(2, 50)) if num_labels > 1 else rng.random((2, 50)) * 5
    if metric.kind == "generation":
        predictions, references = (
            np.array([f"so #### {value:.0f}\nThe answer is: {value:.0f}" for value in values])
            for values in (predictions, references)
        )
    given = references
    if metric.reference_keys:
        objects = [{"subset": "hotpotqa", "answers": [text], "correct": [text], "incorrect": []} for text in references]
        references, given = objects, np.array([json.dumps(each) for each in objects])
    built = build_evaluate_metric(name, num_labels)
    assert isinstance(built, evaluate.Metric)
    expected = {result_key(name, num_labels): metric.compute(predictions, references, num_labels)}
    for start in (0, 20, 40):
        built.add_batch(predictions=predictions[start : start + 20], references=given[start : start + 20])
    assert built.compute() == expected
    assert built.compute(predictions=predictions.tolist(), references=given.tolist()) == expected


def test_two_of_a_kind_do_not_share_rows() -> None:
    first, second = build_evaluate_metric("accuracy", 2), build_evaluate_metric("acc", 2)
    first.add(prediction=1, reference=1)
    second.add(prediction=0, reference=1)
    assert (first.compute(), second.compute()) == ({"accuracy": 1.0}, {"accuracy": 0.0})


def test_needs_no_writable_home(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", "/proc/none")
    assert build_evaluate_metric("mse", 1).compute(predictions=[1.0], references=[3.0]) == {"mse": 4.0}
