"""Preparation shared by tasks: the number of steps, three labels, evaluation without training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from utils.core.errors import ConfigError
from utils.tasks.preparing import collate_training_rows, count_training_steps
from utils.tasks.task import default_task


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"training__num_train_epochs": 2.5},
        {"training__gradient_accumulation_steps": 3},
        {"training__per_device_train_batch_size": 7, "training__gradient_accumulation_steps": 4},
        {"training__max_steps": 2},
        {"training__per_device_train_batch_size": 64},
        {"training__per_device_train_batch_size": 7, "training__dataloader_drop_last": True},
    ],
)
def test_step_counts_equal_the_trainers(prepare_run, keys):
    run = prepare_run("bert", training__eval_strategy="no", training__save_strategy="no", **keys)
    run.trainer.train()
    assert count_training_steps(run.config.arguments, 40) == run.trainer.state.max_steps


def test_no_rows_give_no_steps():
    assert count_training_steps({}, 0) == 0


def test_three_labels_are_saved_and_read_back(prepare_run, make_set, draw_rows, tmp_path):
    from transformers import AutoModelForSequenceClassification

    rows = [{**row, "label": ("no", "maybe", "yes")[index % 3]} for index, row in enumerate(draw_rows(24))]
    run = prepare_run("bert", make_set("three", train=rows, validation=rows[:9]), peft={"method": "none"})
    run.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert again.config.id2label == {0: "maybe", 1: "no", 2: "yes"}
    assert again.config.problem_type == "single_label_classification"
    assert again.classifier.out_features == 3


def test_without_training_no_adapter_is_attached(prepare_run, caplog):
    run = prepare_run("bert", training__do_train=False)
    assert not hasattr(run.model, "peft_config")
    assert not [p for p in run.model.parameters() if p.requires_grad]
    assert "peft has no effect" in caplog.text


def test_evaluating_without_adapter_gives_no_warning(prepare_run, caplog):
    prepare_run("bert", training__do_train=False, peft={"method": "none"})
    assert "no effect" not in caplog.text


def test_a_dataset_without_training_rows_can_only_be_predicted(prepare_run, make_set, tiny_base):
    from utils.tasks.classification.scoring import predict_tests, score_classification

    rows = [
        {"premise": "w1 w2 w3", "hypothesis": "w2", "label": -1},
        {"premise": "w1", "hypothesis": "w2", "label": -1},
    ]
    dataset = {"name": "glue", "subset": "ax", "path": str(make_set("ax", test=rows))}
    with pytest.raises(ConfigError, match=r"training\.do_train: there are no rows to train on"):
        prepare_run("bert", dataset=dataset)
    run = prepare_run("bert", dataset=dataset, training__do_train=False)
    assert score_classification(run.trainer, run.data) == {}
    assert len(predict_tests(run.trainer, run.data)["AX"]) == 2


def test_the_head_is_the_same_for_every_method(prepare_run):
    import torch

    heads = [
        [p.detach() for name, p in run.model.named_parameters() if "classifier" in name and "original" not in name]
        for run in (prepare_run("bert", peft={"method": method}) for method in ("lora", "none", "head-only"))
    ]
    assert all(torch.equal(one, other) for head in heads[1:] for one, other in zip(heads[0], head, strict=True))


def test_evaluating_a_quantized_base_without_adapter_is_refused(prepare_run, tiny_base):
    model = {"name_or_path": str(tiny_base("llama")), "quantization": "nf4"}
    with pytest.raises(ConfigError, match=r"model\.quantization: not with training\.do_train: false"):
        prepare_run("llama", model=model, training__do_train=False)


def test_training_batches_are_drawn_by_the_seed_from_training_rows(prepare_run, make_set, draw_rows):
    """No validation rows, the same rows for the same seed, padded as in training."""
    data = make_set(train=draw_rows(30), validation=draw_rows(30, seed=1))
    run = prepare_run("bert", data=data, training__eval_strategy="no")
    rows = [run.data.draw_training_rows(8, seed) for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    trained = {tuple(ids) for ids in run.data.train.dataset["input_ids"][:]}
    assert all(tuple(row["input_ids"]) in trained for row in rows[0])
    assert len(run.data.draw_training_rows(100, 1)) == 30
    batches = collate_training_rows(rows[0], 3, run.tokenizer, default_task("SEQ_CLS"))
    assert [len(batch["labels"]) for batch in batches] == [3, 3, 2]
    assert run.model(**batches[0]).loss.isfinite()
    for batch, start in zip(batches, (0, 3, 6), strict=True):
        assert batch["attention_mask"].sum(-1).tolist() == [len(row["input_ids"]) for row in rows[0][start : start + 3]]


def test_training_batches_of_a_language_model_keep_their_labels(prepare_run, make_sft):
    run = prepare_run(config=make_sft(sft={"max_length": 128, "packing": True}))
    rows = run.data.draw_training_rows(5, 1)
    assert len(rows) == 5
    (batch,) = collate_training_rows(rows, 8, run.tokenizer, default_task("CAUSAL_LM"))
    for index, row in enumerate(rows):
        assert batch["labels"][index][: len(row["labels"])].tolist() == row["labels"]
        assert set(batch["labels"][index][len(row["labels"]) :].tolist()) <= {-100}
    assert -100 in batch["labels"]


def test_init_seed_affects_only_the_adapter(prepare_run: Any) -> None:
    """Another init_seed changes the adapter's factors, but neither the head nor the row order."""
    runs = [prepare_run(peft={"method": "lora", "lora_r": 4, "init_seed": seed}) for seed in (None, 42, 7)]
    weights = [dict(run.model.named_parameters()) for run in runs]
    factor = next(name for name in weights[0] if ".lora_A." in name)
    head = next(name for name in weights[0] if "modules_to_save" in name and name.endswith("weight"))
    assert torch.equal(weights[0][factor], weights[1][factor]), "null is the run's own seed, 42"
    assert not torch.equal(weights[0][factor], weights[2][factor])
    assert torch.equal(weights[0][head], weights[2][head])
    orders = [[batch["input_ids"].tolist() for batch in run.trainer.get_train_dataloader()] for run in runs]
    assert orders[0] == orders[2]
