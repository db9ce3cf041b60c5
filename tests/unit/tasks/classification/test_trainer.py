"""Training: losses with and without gradient accumulation, row order, learning rates, memory of evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from utils.core.errors import ConfigError
from utils.tasks.classification.trainer import ClassificationLoss, keep_predictions, scale_class_weights


def _losses(run):
    return [log["loss"] for log in run.trainer.state.log_history if "loss" in log]


def _norms(run):
    return [log["grad_norm"] for log in run.trainer.state.log_history if "grad_norm" in log]


def _watch_rows(trainer):
    """Record the token ids of every training batch, which identify its rows."""
    seen = []
    step = trainer.training_step

    def watch(model, inputs, *rest):
        seen.append([tuple(ids.tolist()) for ids in inputs["input_ids"]])
        return step(model, inputs, *rest)

    trainer.training_step = watch
    return seen


STEPS = {"training__logging_steps": 1, "training__eval_strategy": "no", "training__save_strategy": "no"}
SPLIT = {"training__per_device_train_batch_size": 2, "training__gradient_accumulation_steps": 4}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_accumulated_batches_train_as_one_batch(prepare_run, family):
    """Batch 8 and 2 x 4 rows give the same losses and gradients; plain transformers gives gradients 4 times as large.

    It assumes that a classifier, whose forward accepts keyword arguments, divides the loss by the rows of the
    whole step, and so does not divide by the accumulated batches. Its optimizer then gets 4 times the gradient,
    clips it, and the losses diverge. There are 5 steps of 40 rows, none of them partial.
    """
    whole, parts = (prepare_run(family, **STEPS, **keys) for keys in ({}, SPLIT))
    for run in (whole, parts):
        run.trainer.train()
    assert len(_losses(whole)) == 5
    assert _losses(parts) == pytest.approx(_losses(whole), abs=1e-5)
    assert _norms(parts) == pytest.approx(_norms(whole), rel=1e-4)

    plain = prepare_run(family, **STEPS, **SPLIT)
    plain.trainer.compute_loss_func = None
    plain.trainer.train()
    assert _norms(plain)[0] == pytest.approx(4 * _norms(whole)[0], rel=1e-3)


def test_a_smaller_last_step_weights_rows_equally(prepare_run, make_set, draw_rows):
    """11 rows by 4 x 2: the second step holds 3 rows in two batches, 2 and 1."""
    data = make_set(train=draw_rows(11), validation=draw_rows(3, seed=1))
    whole = prepare_run("bert", data, **STEPS)
    parts = prepare_run("bert", data, **STEPS, **SPLIT)
    for run in (whole, parts):
        run.trainer.train()
    assert _losses(parts) == pytest.approx(_losses(whole), abs=1e-5)
    assert len(_losses(whole)) == 2


def test_methods_see_the_same_rows_in_the_same_batches(prepare_run):
    seen = {}
    for method in ("lora", "none", "head-only"):
        run = prepare_run("bert", peft={"method": method}, **STEPS, training__num_train_epochs=2)
        torch.rand(len(method))  # a method may use any number of random draws
        seen[method] = _watch_rows(run.trainer)
        run.trainer.train()
    assert seen["lora"] == seen["none"] == seen["head-only"]
    epochs = seen["lora"][:5], seen["lora"][5:]
    assert epochs[0] != epochs[1]
    flat = [
        sorted(row for batch in epoch for row in {tuple(i for i in r if i != 3) for r in batch}) for epoch in epochs
    ]
    assert flat[0] == flat[1]
    assert len(flat[0]) == 40
    assert max(len(row) for row in epochs[0][0]) == max(
        len(row) for epoch in epochs for batch in epoch for row in batch
    )


@pytest.mark.parametrize("keys", [{"seed": 7}, {"training__data_seed": 7}])
def test_another_seed_gives_another_order(prepare_run, keys):
    orders = []
    for settings in ({}, keys):
        run = prepare_run("bert", **STEPS, **settings)
        orders.append(_watch_rows(run.trainer))
        run.trainer.train()
    assert orders[0] != orders[1]


def test_a_data_seed_of_null_means_the_seed(prepare_run):
    orders = []
    for settings in ({"training__data_seed": None}, {}):
        run = prepare_run("bert", **STEPS, **settings)
        orders.append(list(run.trainer._get_train_sampler()))
    assert orders[0] == orders[1]


def test_the_same_seed_gives_bit_equal_losses(prepare_run):
    losses = []
    for _ in range(2):
        run = prepare_run("bert", **STEPS, peft__lora_dropout=0.1)
        run.trainer.train()
        losses.append(_losses(run))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("family", "method"), [("bert", "lora"), ("distilbert", "lora"), ("bert", "none")])
def test_the_heads_learning_rate_applies_only_to_the_head(prepare_run, family, method):
    run = prepare_run(family, peft={"method": method}, training__head_learning_rate=0.05, **STEPS)
    trainer = run.trainer
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    trained = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    assert len(rates) == len(trained)
    for name, parameter in trained.items():
        assert rates[id(parameter)] == (0.05 if "classifier" in name else 0.01), name
        assert decays[id(parameter)] == 0.0
    for _ in range(4):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        ratios = {group["lr"] for group in trainer.optimizer.param_groups if group["params"]}
        assert len(ratios) == 2
        assert max(ratios) / min(ratios) == pytest.approx(5.0)
    assert max(ratios) == pytest.approx(0.05 * 0.6)


def test_weight_decay_is_kept_in_split_parameter_groups(prepare_run):
    run = prepare_run("bert", training__head_learning_rate=0.05, training__weight_decay=0.1, peft={"method": "none"})
    groups = run.trainer.create_optimizer().param_groups
    assert sorted((group["lr"], group["weight_decay"]) for group in groups if group["params"]) == [
        (0.01, 0.0), (0.01, 0.1), (0.05, 0.0), (0.05, 0.1),
    ]  # fmt: skip


def test_evaluation_keeps_predictions_not_logits(prepare_run):
    run = prepare_run("bert", **STEPS)
    output = run.trainer.predict(run.data.evals[""].dataset)
    assert output.predictions.shape == (17,)
    assert output.predictions.dtype.kind == "i"


def test_a_single_last_row_keeps_its_batch_dimension():
    assert keep_predictions(torch.zeros(1, 1), torch.zeros(1)).shape == (1,)
    assert keep_predictions((torch.zeros(3, 1), "hidden"), torch.zeros(3)).shape == (3,)
    assert keep_predictions(torch.tensor([[0.1, 2.0, -1.0]]), torch.zeros(1)).tolist() == [1]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert"])
def test_padding_does_not_change_logits(prepare_run, family):
    """Each row separately and all in one padded batch: qwen2's tokenizer pads with its end-of-text token."""
    run = prepare_run(family)
    model, tokenizer = run.model.eval(), run.tokenizer
    texts = ["good w1 w2 w3 w4 w5", "bad", "film w7 w8"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model(**batch).logits
        alone = torch.cat([model(**tokenizer([text], return_tensors="pt")).logits for text in texts])
    assert (together - alone).abs().max() < 1e-5
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_empty_texts_do_not_break_a_decoder(prepare_run, make_set, draw_rows, family):
    """These tokenizers add no special tokens, so a batch of empty rows had no width."""
    empty = [{"text": "", "label": index % 2} for index in range(10)]
    data = make_set(train=[*draw_rows(10), *empty], validation=[*draw_rows(4, seed=1), *empty])
    run = prepare_run(family, data)
    run.trainer.train()
    assert run.trainer.state.log_history[-2]["eval_loss"] > 0


def test_rows_are_read_in_order_if_configured(prepare_run):
    run = prepare_run("bert", training__train_sampling_strategy="sequential")
    assert list(run.trainer._get_train_sampler()) == list(range(40))


def test_dataloader_drop_last_drops_no_evaluation_row(prepare_run, make_set, draw_rows):
    data = make_set("odd", train=draw_rows(19), validation=draw_rows(17, seed=1))
    run = prepare_run("bert", data, training__dataloader_drop_last=True)
    seen = _watch_rows(run.trainer)
    run.trainer.train()
    assert [len(batch) for batch in seen] == [8, 8]
    assert len(run.trainer.predict(run.data.evals[""].dataset).predictions) == 17


LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0], [2.0, 2.5, -0.5], [-1.0, 0.0, 1.0]])
LABELS = torch.tensor([0, 2, 1, 1])


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def test_class_weights_equal_a_float64_computation():
    """w_c = (1 / n_c), scaled so that their mean over the rows is 1; the loss is the weighted sum over n rows."""
    counts = [10, 30, 60]
    weights = scale_class_weights("balanced", counts)
    expected = 100 / (3 * np.array(counts, dtype=np.float64))
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert np.dot(weights, counts) / 100 == pytest.approx(1.0)
    logs = _log_softmax(LOGITS.double().numpy())
    by_hand = -sum(expected[label] * logs[row, label] for row, label in enumerate(LABELS.tolist())) / 4
    loss = ClassificationLoss(3, weights)({"logits": LOGITS}, LABELS)
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)


def test_explicit_class_weights_keep_their_ratio():
    weights = scale_class_weights([1.0, 4.0], [30, 10])
    assert weights[1] / weights[0] == pytest.approx(4.0)
    assert (30 * weights[0] + 10 * weights[1]) / 40 == pytest.approx(1.0)
    assert scale_class_weights(None, [1, 2]) is None


def test_a_class_without_rows_has_a_finite_weight():
    weights = scale_class_weights("balanced", [5, 5, 0])
    assert np.isfinite(weights).all()
    assert weights[:2] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "needs 2 numbers, one for each class, found 1"),
        ([0.0, 0.0], "weights are 0 or more"),
        ([-1.0, 2.0], "0"),
    ],
)
def test_class_weights_of_the_wrong_number_are_refused(weights, message):
    with pytest.raises(ConfigError, match=rf"training\.class_weights: .*{message}"):
        scale_class_weights(weights, [5, 5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_equals_torchs(smoothing):
    expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    assert ClassificationLoss(3, None, smoothing)({"logits": LOGITS}, LABELS).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 2), (1, 1, 1, 1)])
def test_micro_batch_losses_sum_to_the_step_loss(sizes):
    loss = ClassificationLoss(3, [0.5, 1.0, 1.5], 0.1)
    whole = loss({"logits": LOGITS}, LABELS)
    start, total = 0, 0.0
    for size in sizes:
        rows = slice(start, start + size)
        total += loss({"logits": LOGITS[rows]}, LABELS[rows], num_items_in_batch=torch.tensor(4)).item()
        start += size
    assert total == pytest.approx(whole.item(), abs=1e-6)


def test_regression_loss_is_the_mean_squared_error_also_for_one_row():
    loss = ClassificationLoss(1)
    values, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0])
    assert loss({"logits": values}, labels).item() == pytest.approx((1 + 4) / 2)
    assert loss({"logits": values[:1]}, labels[:1]).item() == pytest.approx(1.0)
    assert loss((values,), labels).item() == pytest.approx(2.5)


def test_half_precision_losses_are_computed_in_float32():
    loss = ClassificationLoss(3)({"logits": LOGITS.bfloat16()}, LABELS)
    assert loss.dtype == torch.float32
