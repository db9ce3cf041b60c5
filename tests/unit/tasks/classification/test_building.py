"""Building the trainer: choosing the best checkpoint, early stopping, class weights, positions."""

from __future__ import annotations

import pytest

from utils.core.errors import ConfigError, DataError
from utils.tasks.classification.building import best_metric_name


def _scores(run, name):
    return {log["step"]: log[f"eval_{name}"] for log in run.trainer.state.log_history if f"eval_{name}" in log}


def _regression(draw_rows, make_set):
    rows = lambda number, seed: [{**row, "label": len(row["text"]) / 10} for row in draw_rows(number, seed)]
    return make_set("numbers", train=rows(40, 0), validation=rows(9, 1))


@pytest.mark.parametrize(("metric", "pick"), [("mse", min), ("pearson", max), ("loss", min)])
def test_the_best_checkpoint_follows_the_metrics_direction(prepare_run, draw_rows, make_set, metric, pick):
    data = _regression(draw_rows, make_set)
    # Such a high learning rate makes the scores fluctuate, so that neither the first nor the last is best by chance.
    run = prepare_run(
        "bert", data, dataset__num_labels=1, training__metric_for_best_model=metric, training__num_train_epochs=4,
        training__learning_rate=0.3, training__save_total_limit=None,
    )  # fmt: skip
    assert run.trainer.args.greater_is_better == (pick is max)
    run.trainer.train()
    scores = _scores(run, metric)
    assert len(set(scores.values())) == 4
    best = pick(scores, key=scores.get)
    assert run.trainer.state.best_global_step == best
    assert run.trainer.state.best_metric == pytest.approx(scores[best])
    again = run.trainer.evaluate()
    assert again[f"eval_{metric}"] == pytest.approx(scores[best], abs=1e-6), "the best weights are loaded"


def test_the_datasets_own_metric_is_the_default(prepare_run):
    run = prepare_run("bert")
    assert (run.trainer.args.metric_for_best_model, run.trainer.args.greater_is_better) == ("accuracy", True)


def test_f1_of_three_labels_is_f1_macro(prepare_run, make_set, draw_rows):
    rows = [{**row, "label": index % 3} for index, row in enumerate(draw_rows(24))]
    data = make_set("three", train=rows, validation=rows[:9])
    run = prepare_run("bert", data, training__metric_for_best_model="f1")
    assert run.trainer.args.metric_for_best_model == "f1_macro"
    run.trainer.train()
    assert run.trainer.state.best_metric == _scores(run, "f1_macro")[3]


def test_a_macro_metric_can_select_for_two_labels(prepare_run):
    run = prepare_run("bert", training__metric_for_best_model="f1_macro")
    run.trainer.train()
    assert run.trainer.state.best_metric is not None


def test_the_combined_score_can_select_for_two_metrics(prepare_run):
    two = {"dataset__metrics": ["f1", "accuracy"], "training__metric_for_best_model": "combined_score"}
    run = prepare_run("bert", **two)
    run.trainer.train()
    last = run.trainer.state.log_history[-2]
    assert last["eval_combined_score"] == pytest.approx((last["eval_f1"] + last["eval_accuracy"]) / 2)


@pytest.mark.parametrize("keys", [{}, {"training__load_best_model_at_end": False}])
def test_early_stopping_ends_a_run_that_does_not_improve(prepare_run, keys):
    run = prepare_run(
        "bert", training__early_stopping_patience=2, training__early_stopping_threshold=1.1,
        training__num_train_epochs=9, **keys,
    )  # fmt: skip
    run.trainer.train()
    assert len(_scores(run, "accuracy")) == 3


def test_class_weights_follow_the_classes_not_the_checkpoints_ids(prepare_run, tiny_base, make_set, tmp_path):
    """Weights are written in the data's label order; the checkpoint's label2id has another order."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = tiny_base("bert")
    names = {0: "c", 1: "a", 2: "b"}
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label=names)
    model.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "tuned")
    rows = [{"text": f"w{index}", "label": "abc"[index % 3]} for index in range(12)]
    keys = {"training__class_weights": [1.0, 2.0, 6.0], "model": {"name_or_path": str(tmp_path / "tuned")}}
    run = prepare_run("bert", make_set("abc", train=rows, validation=rows), **keys)
    assert run.data.coder.names == ("c", "a", "b")
    assert run.trainer.compute_loss_func.class_weights == pytest.approx([2.0, 1 / 3, 2 / 3])
    assert run.model.config.id2label == names


def test_class_weights_of_the_wrong_number_are_refused(prepare_run):
    with pytest.raises(ConfigError, match=r"class_weights: needs 2 numbers, one for each class, found 3"):
        prepare_run("bert", training__class_weights=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
def test_rows_beyond_the_position_table_are_refused(prepare_run, make_set, draw_rows, family):
    """Each has 64 positions; RoBERTa's table has 4 more rows, for ids up to its pad id's."""
    long = {"text": " ".join(["w1"] * 80), "label": 1}
    data = make_set("long", train=[*draw_rows(8), long], validation=draw_rows(4, seed=1))
    with pytest.raises(DataError, match=r"dataset\.max_length: a row has 80 .*positions for 64|65 tokens.*for 64"):
        prepare_run(family, data, dataset__max_length=80 if family == "gpt2" else 65)
    prepare_run(family, data, dataset__max_length=64).trainer.evaluate()


def test_short_rows_allow_any_max_length(prepare_run):
    prepare_run("bert", dataset__max_length=512)


@pytest.mark.parametrize("family", ["llama", "modernbert"])
def test_relative_positions_have_no_limit(prepare_run, make_set, draw_rows, family):
    long = {"text": " ".join(["w1"] * 80), "label": 1}
    prepare_run(family, make_set("long", train=[*draw_rows(8), long], validation=[long]), dataset__max_length=90)


@pytest.mark.parametrize(
    ("resolved", "labels", "expected"),
    [
        ({"metric_for_best_model": "eval_f1"}, 2, "f1"),
        ({"metric_for_best_model": "eval_loss"}, 2, "loss"),
        ({}, 2, "accuracy"),
        ({"metric_for_best_model": "f1"}, 3, "f1_macro"),
    ],
)
def test_name_of_the_best_metric(resolved, labels, expected):
    from types import SimpleNamespace

    data = SimpleNamespace(num_labels=labels, spec=SimpleNamespace(metrics=("accuracy",)))
    assert best_metric_name(resolved, data) == expected
