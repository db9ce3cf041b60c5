"""Files for other programs: run_glue.py's key names, and the lines that the GLUE server expects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.core.errors import DataError
from utils.results.exports import write_hf_results, write_predictions, write_submission


def read(folder: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / f"{name}_results.json").read_text())
    return data


def test_mnli_has_both_sets(tmp_path: Path) -> None:
    matched = {
        "eval_accuracy": 0.84,
        "eval_loss": 0.4,
        "eval_runtime": 9.0,
        "eval_samples": 9815,
        "epoch": 3.0,
    }
    mismatched = {"accuracy": 0.85, "loss": 0.39, "runtime": 9.1, "samples": 9832, "epoch": 3.0}
    train = {"train_runtime": 12.0, "loss": 0.5, "train_samples": 392702, "epoch": 3.0}
    write_hf_results(tmp_path, train, {"": matched, "_mm": mismatched}, task_metrics=["accuracy"])
    expected = {
        "epoch": 3.0,
        "eval_accuracy": 0.84, "eval_accuracy_mm": 0.85, "eval_loss": 0.4, "eval_loss_mm": 0.39,
        "eval_runtime": 9.0, "eval_runtime_mm": 9.1, "eval_samples": 9815, "eval_samples_mm": 9832,
    }  # fmt: skip
    assert read(tmp_path, "eval") == expected
    trained = {"train_runtime": 12.0, "train_loss": 0.5, "train_samples": 392702, "epoch": 3.0}
    assert read(tmp_path, "train") == trained
    assert read(tmp_path, "all") == {**trained, **expected}


def test_combined_score_is_the_mean_of_the_tasks_metrics_only(tmp_path: Path) -> None:
    values = {"eval_accuracy": 0.8, "f1": 0.9, "precision": 0.1}
    write_hf_results(tmp_path, None, {"": values}, task_metrics=["accuracy", "f1"])
    assert read(tmp_path, "eval")["eval_combined_score"] == pytest.approx(0.85)
    assert not (tmp_path / "train_results.json").exists()
    write_hf_results(tmp_path, None, {"": {"accuracy": 0.8}}, task_metrics=["accuracy", "f1"])
    assert read(tmp_path, "eval") == {"eval_accuracy": 0.8}


def test_layout_equals_the_trainers(tmp_path: Path) -> None:
    write_hf_results(tmp_path, {"loss": 1.0, "epoch": 1.0}, {})
    assert (tmp_path / "train_results.json").read_text() == '{\n    "epoch": 1.0,\n    "train_loss": 1.0\n}\n'
    assert not (tmp_path / "eval_results.json").exists()


def test_evaluating_again_keeps_trainings_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_hf_results(tmp_path, {"loss": 1.0}, {"": {"accuracy": 0.1}})
    write_hf_results(tmp_path, None, {"": {"accuracy": 0.2}})
    assert read(tmp_path, "all") == {"train_loss": 1.0, "eval_accuracy": 0.2}
    (tmp_path / "all_results.json").write_text('{"train')
    write_hf_results(tmp_path, None, {"": {"accuracy": 0.3}})
    assert read(tmp_path, "all") == {"eval_accuracy": 0.3}
    assert "written again" in caplog.text


NLI = ["entailment", "neutral", "contradiction"]


def test_names_ids_and_scores(tmp_path: Path) -> None:
    path = write_submission(tmp_path, "MNLI-m", dict(enumerate(np.array([2, 0, 1]))), "name", NLI)
    assert path == tmp_path / "MNLI-m.tsv"
    assert path.read_bytes() == b"index\tprediction\n0\tcontradiction\n1\tentailment\n2\tneutral\n"
    path = write_submission(tmp_path, "CoLA.tsv", {7: 1, "b": 0}, "index", ["unacceptable", "acceptable"])
    assert path.read_bytes() == b"index\tprediction\n7\t1\nb\t0\n"
    path = write_submission(tmp_path, "STS-B", dict(enumerate(np.float32([-0.0, -3, 5.2, 2.34567, np.inf]))), "score")
    assert path.read_text() == "index\tprediction\n0\t0.000\n1\t0.000\n2\t5.000\n3\t2.346\n4\t5.000\n"


def test_line_count_is_rows_plus_header(tmp_path: Path) -> None:
    path = write_submission(tmp_path, "AX", dict.fromkeys(range(1104), 0), "name", NLI)
    assert len(path.read_text().splitlines()) == 1105


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (2, "index", "test row 1: 2 is not a label id; labels go from 0 to 1"),
        (-1, "name", "-1 is not a label id"),
        (0.5, "index", "0.5 is not a label id"),
        (float("nan"), "score", "diverged"),
        (float("nan"), "index", "not a label id"),
    ],
)
def test_wrong_values_are_refused_and_leave_no_file(value: float, kind: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        write_submission(tmp_path, "RTE", {0: 0, 1: value}, kind, ["entailment", "not_entailment"])
    assert not list(tmp_path.iterdir())


def test_a_classifiers_predictions_are_written_with_a_confusion_matrix(tmp_path):
    pairs = [("b", "a"), ("a", "a"), ("b", "b"), ("b", "b"), ("c", "a")]
    rows = [{"row": row, "text": "é", "label": label, "prediction": said} for row, (label, said) in enumerate(pairs)]
    write_predictions(tmp_path / "eval", rows)
    lines = (tmp_path / "eval" / "predictions.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert (tmp_path / "eval" / "confusion.csv").read_text() == "label,a,b,c\na,1,0,0\nb,1,2,0\nc,1,0,0\n"
    classes = (tmp_path / "eval" / "classes.csv").read_text().splitlines()
    assert classes[0] == "label,precision,recall,f1,rows"
    assert classes[1].startswith("a,0.333")
    assert classes[1].endswith(",1.0,0.5,1")
    assert classes[3] == "c,0.0,0.0,0.0,1"


def test_regression_has_no_confusion_matrix(tmp_path):
    write_predictions(tmp_path / "eval", [{"row": 0, "text": "a", "label": 1.5, "prediction": 1.25}])
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["predictions.jsonl"]
