"""Fine-tuning a language model: batching, accumulation, packing, padding and evaluation do not change results."""

from __future__ import annotations

import math

import pytest
import torch

from tests.invariants.comparison import assert_alike, copy_trained, read_losses

STEPS = {"training__max_steps": 6}
SGD = {"training__optim": "sgd", "training__learning_rate": 0.5}
"""Adam divides a gradient by its magnitude, so that rounding of a gradient near zero becomes a step."""


def _train(prepare_run, make_sft, **keys):
    run = prepare_run(config=make_sft(**{**STEPS, **keys}))
    run.trainer.train()
    return run


def test_accumulated_batches_train_as_one_large_batch(prepare_run, make_sft):
    whole = _train(prepare_run, make_sft, **SGD, training__per_device_train_batch_size=8)
    keys = {"training__per_device_train_batch_size": 2, "training__gradient_accumulation_steps": 4}
    assert_alike(whole, _train(prepare_run, make_sft, **SGD, **keys))


@pytest.mark.parametrize("keys", [{}, {"training__gradient_checkpointing": True}], ids=["", "checkpointing"])
def test_padding_free_batches_train_as_padded_ones(prepare_run, make_sft, keys):
    padded = _train(prepare_run, make_sft, sft={"max_length": 128, "padding_free": False}, **SGD, **keys)
    flat = _train(prepare_run, make_sft, **SGD, **keys)
    assert flat.trainer.data_collator.padding_free
    assert not padded.trainer.data_collator.padding_free
    assert_alike(padded, flat)


def test_packed_rows_train_as_unpacked_ones(prepare_run, make_sft):
    """With all rows in every step, their distribution over packed rows cannot matter."""
    keys = {**SGD, "training__per_device_train_batch_size": 48, "training__max_steps": 3}
    plain = _train(prepare_run, make_sft, **keys)
    packed = _train(prepare_run, make_sft, sft={"max_length": 256, "packing": True}, **keys)
    assert packed.data.num_train_rows < 48 / 2
    assert all(sum(lengths) <= 256 for lengths in packed.data.train["seq_lengths"])
    assert_alike(plain, packed)


def test_label_smoothing_and_dft_have_an_effect(prepare_run, make_sft):
    plain = _train(prepare_run, make_sft)
    smooth = _train(prepare_run, make_sft, training__label_smoothing_factor=0.1)
    dft = _train(prepare_run, make_sft, sft={"max_length": 128, "loss_type": "dft"})
    assert read_losses(smooth)[0] > read_losses(plain)[0] > read_losses(dft)[0]


def test_the_evaluation_loss_is_the_mean_over_tokens_at_any_batch_size(prepare_run, make_sft):
    """Compared with float64 probabilities, one row at a time."""
    found = []
    for batch in (1, 7, 40):
        run = prepare_run(config=make_sft(training__per_device_eval_batch_size=batch))
        found.append(run.trainer.evaluate())
    model = prepare_run(config=make_sft(sft={"max_length": 128, "padding_free": False})).model.eval().double()
    total, count, right = 0.0, 0, 0
    for row in run.data.instructions.evals[""]:
        ids, labels = (torch.tensor(row[key])[None] for key in ("input_ids", "labels"))
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        kept = labels[0, 1:] != -100
        total -= log_probs[kept].gather(-1, labels[0, 1:][kept][:, None]).sum().item()
        count += int(kept.sum())
        right += int((log_probs.argmax(-1) == labels[0, 1:])[kept].sum())
    for scores in found:
        assert scores["eval_loss"] == pytest.approx(total / count, rel=1e-5)
        assert scores["eval_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
        assert scores["eval_token_accuracy"] == pytest.approx(right / count)


def test_generating_during_training_changes_no_weight(prepare_run, make_sft, tmp_path):
    keys = {"peft": {"method": "lora", "lora_r": 4, "target_modules": "all-linear", "lora_dropout": 0.2}}
    silent = _train(prepare_run, make_sft, **keys)
    writing = _train(
        prepare_run, make_sft, **keys, evaluation={"steps": 2, "max_samples": 5}, generation={"max_new_tokens": 8}
    )
    assert read_losses(silent) == read_losses(writing)
    weights = copy_trained(writing)
    assert all(torch.equal(value, weights[name]) for name, value in copy_trained(silent).items())
    logged = [log for log in writing.trainer.state.log_history if any(key.endswith("em_strict") for key in log)]
    assert [log["step"] for log in logged] == [2, 4, 6]
    assert (tmp_path / "run" / "eval_step_4").is_dir()


def test_row_order_and_losses_equal_those_of_a_plain_trainer(prepare_run, make_sft, tmp_path):
    """transformers.Trainer, given the same rows in the same order, has the same losses."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    run = _train(prepare_run, make_sft, training__per_device_train_batch_size=8)
    fresh = prepare_run(config=make_sft(sft={"max_length": 128, "padding_free": False}))
    order = list(run.trainer._get_train_sampler())
    rows = fresh.data.train.select_columns(["input_ids", "labels"])
    ordered = rows.select([order[index % 48] for index in range(48)])
    arguments = TrainingArguments(
        str(tmp_path / "plain"), per_device_train_batch_size=8, max_steps=6, logging_steps=1, learning_rate=3e-3,
        train_sampling_strategy="sequential", use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    collate = DataCollatorForSeq2Seq(fresh.tokenizer)
    plain = Trainer(fresh.model, arguments, collate, ordered)
    plain.train()
    expected = [log["loss"] for log in plain.state.log_history if "loss" in log]
    assert max(abs(a - b) for a, b in zip(read_losses(run), expected, strict=True)) < 1e-5
