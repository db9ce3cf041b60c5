"""Scores and predictions after training: a last single row, two validation sets, order of submissions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from utils.tasks.classification.scoring import collect_outcome, predict_tests, score_classification
from utils.tasks.outcome import training_metrics


def _record(run, scores):
    from utils.modeling.sizes import count_parameters
    from utils.results.record import RunRecord

    started = RunRecord(status="failed", task_name="t", task_type="SEQ_CLS", method="lora")
    return collect_outcome(started, run.trainer, run.data, scores, count_parameters(run.model), run.measuring).record


def _similar(number, seed, draw_rows):
    rows = draw_rows(number, seed, pair=True)
    return [
        {"sentence1": row["text"], "sentence2": row["other"], "label": round(index % 6 * 0.9, 2)}
        for index, row in enumerate(rows)
    ]


@pytest.mark.parametrize("rows", [9, 1])
def test_regression_with_one_row_left_over(prepare_run, make_set, draw_rows, rows):
    """The pitfall of STS-B: squeezing a last batch of one row removes its batch dimension."""
    data = make_set(train=_similar(16, 0, draw_rows), validation=_similar(rows, 1, draw_rows))
    dataset = {"name": "glue", "subset": "stsb", "path": str(data), "max_length": 48}
    run = prepare_run("bert", dataset=dataset, training__per_device_eval_batch_size=8)
    run.trainer.train()
    score = score_classification(run.trainer, run.data)[""]
    assert score.num_rows == rows
    output = run.trainer.predict(run.data.evals[""].dataset)
    labels = np.array(run.data.evals[""].dataset["labels"][:], dtype=np.float64)
    mean = ((output.predictions.astype(np.float64) - labels) ** 2).mean()
    assert score.metrics["loss"] == pytest.approx(mean, rel=1e-5)
    assert score.metrics["mse"] == pytest.approx(mean, rel=1e-5)
    if rows > 1:
        assert score.metrics["pearson"] == pytest.approx(np.corrcoef(output.predictions, labels)[0, 1], abs=1e-5)
        pair = score.metrics["pearson"], score.metrics["spearmanr"]
        assert score.metrics["combined_score"] == pytest.approx(sum(pair) / 2)
    else:
        assert (score.metrics["pearson"], score.metrics["spearmanr"]) == (0.0, 0.0)
    assert all(math.isfinite(value) for value in score.metrics.values())


def test_constant_predictions_score_zero_with_a_warning(prepare_run, caplog):
    import torch

    run = prepare_run("bert", training__learning_rate=1e-9)
    head = run.model.base_model.model.classifier
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    score = score_classification(run.trainer, run.data)[""]
    assert (score.metrics["f1"], score.metrics["matthews_correlation"]) == (0.0, 0.0)
    assert "counts as 0" in caplog.text
    assert score.metrics["accuracy"] == pytest.approx(9 / 17)


def test_the_evaluation_loss_is_the_mean_over_rows(prepare_run):
    """17 rows in batches of 8 leave one row, which a mean of batch means would weight eightfold."""
    import torch
    from torch.nn import functional

    run = prepare_run("bert")
    score = score_classification(run.trainer, run.data)[""]
    texts, labels = run.data.evals[""].texts["text"][:], run.data.evals[""].dataset["labels"][:]
    batch = run.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = run.model.eval()(**batch).logits
    expected = functional.cross_entropy(logits, torch.tensor(labels)).item()
    assert score.metrics["loss"] == pytest.approx(expected, abs=1e-5)
    accuracy = (logits.argmax(-1) == torch.tensor(labels)).double().mean().item()
    assert score.metrics["accuracy"] == pytest.approx(accuracy)
    assert score.hf["eval_samples"] == 17
    assert score.baseline["accuracy"] == pytest.approx(9 / 17)
    low, high = score.interval["accuracy"]
    assert low <= accuracy <= high


@pytest.fixture
def run_mnli(prepare_run, make_set, draw_rows, tiny_base, tmp_path):
    """Prepare an MNLI-like dataset and a checkpoint with another label order."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    def rows(number, seed, labelled=True):
        drawn = draw_rows(number, seed, pair=True)
        return [
            {"premise": row["text"], "hypothesis": row["other"], "label": index % 3 if labelled else -1}
            for index, row in enumerate(drawn)
        ]

    order = ("contradiction", "entailment", "neutral")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_base("llama"), id2label=dict(enumerate(order)))
    with torch.no_grad():
        torch.manual_seed(3)
        model.score.weight.normal_(std=5.0)  # answers of all three kinds
    model.save_pretrained(tmp_path / "nli")
    AutoTokenizer.from_pretrained(tiny_base("llama")).save_pretrained(tmp_path / "nli")
    splits = {
        "train": rows(30, 0), "validation_matched": rows(12, 1), "validation_mismatched": rows(7, 2),
        "test_matched": rows(11, 3, labelled=False), "test_mismatched": rows(5, 4, labelled=False),
    }  # fmt: skip
    dataset = {"name": "glue", "subset": "mnli", "path": str(make_set("mnli", **splits)), "max_length": 48}
    run = prepare_run("llama", dataset=dataset, model={"name_or_path": str(tmp_path / "nli")})
    return run, splits, order


def test_mnli_is_scored_on_both_sets(run_mnli):
    run, _, _ = run_mnli
    scores = score_classification(run.trainer, run.data)
    assert {suffix: score.num_rows for suffix, score in scores.items()} == {"": 12, "_mm": 7}
    record = _record(run, scores)
    assert {"accuracy", "accuracy_mm", "loss", "loss_mm"} <= set(record.metrics)
    assert record.best_metric.name == "accuracy"
    assert record.best_metric.value == record.metrics["accuracy"]
    assert record.data.eval_rows == 12


def test_submissions_have_the_right_values_in_the_order_of_the_file(run_mnli, tmp_path):
    """Rows are predicted by increasing length, by a checkpoint whose label ids are not the benchmark's."""
    import torch

    from utils.runs.export import write_submissions
    from utils.runs.opening import RunFolder

    run, splits, order = run_mnli
    assert run.model.config.id2label == dict(enumerate(order))
    write_submissions(RunFolder(tmp_path), run.data, predict_tests(run.trainer, run.data))
    for file, split in (("MNLI-m", "test_matched"), ("MNLI-mm", "test_mismatched")):
        lines = (tmp_path / "submission" / f"{file}.tsv").read_text().splitlines()
        expected = []
        for row in splits[split]:
            batch = run.tokenizer(
                row["premise"], row["hypothesis"], truncation=True, max_length=48, return_tensors="pt"
            )
            with torch.no_grad():
                expected.append(order[int(run.model.eval()(**batch).logits.argmax())])
        assert lines == ["index\tprediction", *(f"{index}\t{name}" for index, name in enumerate(expected))]
        assert len(set(expected)) > 1, "one answer for all rows would prove nothing"


def test_dropped_rows_make_a_result_partial(prepare_run):
    run = prepare_run("bert", dataset__max_eval_samples=5)
    record = _record(run, score_classification(run.trainer, run.data))
    assert record.extra["partial"] is True
    assert any(warning.startswith("partial score: ") for warning in record.warnings), "the tables show it"
    whole = prepare_run("bert", dataset__max_train_samples=5)
    assert "partial" not in _record(whole, score_classification(whole.trainer, whole.data)).extra


def test_a_record_holds_what_was_measured(prepare_run):
    run = prepare_run("bert", training__num_train_epochs=2)
    run.trainer.train()
    record = _record(run, score_classification(run.trainer, run.data))
    assert record.status == "success"
    assert record.best_metric.step in (5, 10)
    assert record.time.train_runtime_s > 0
    assert record.time.tokens_per_s > 0
    assert record.memory.device == "cpu"
    assert record.data.train_rows == 40
    trained = training_metrics(run.trainer)
    assert trained["train_samples"] == 40
    assert {"train_loss", "train_runtime", "epoch"} <= set(trained)
    tokens = sum(run.data.train.dataset["length"][:])
    assert run.trainer.state.num_input_tokens_seen == 2 * tokens, "padding is not counted"


def test_without_training_the_record_has_no_training_figures(prepare_run):
    run = prepare_run("bert")
    record = _record(run, score_classification(run.trainer, run.data))
    assert training_metrics(run.trainer) is None
    assert record.time.train_runtime_s is None
    assert record.best_metric.step is None
