"""Side tuning a model: padding, packing, accumulation and the backbone cache do not change results."""

from __future__ import annotations

import pytest
import torch

from tests.invariants.comparison import assert_alike, copy_trained, read_losses

STEPS = {"training__max_steps": 6}
SGD = {"training__optim": "sgd", "training__learning_rate": 0.5}
"""Adam divides a gradient by its magnitude, so that rounding of a gradient near zero becomes a step."""
SIDE = {"method": "qst", "reduction_factor": 4, "downsample_rank": 8}


def _train(prepare_run, config):
    run = prepare_run(config=config)
    run.trainer.train()
    return run


def _write(prepare_run, make_sft, side=SIDE, **keys):
    return _train(prepare_run, make_sft(peft=side, **{**STEPS, **SGD, **keys}))


def test_the_same_seed_gives_the_same_weights(prepare_run, make_config):
    one, other = (_train(prepare_run, make_config("bert", peft=SIDE, **STEPS)) for _ in range(2))
    assert read_losses(one) == read_losses(other)
    weights = copy_trained(other)
    assert all(torch.equal(value, weights[name]) for name, value in copy_trained(one).items())


def test_accumulated_batches_train_as_one_large_batch(prepare_run, make_sft):
    whole = _write(prepare_run, make_sft, training__per_device_train_batch_size=8)
    keys = {"training__per_device_train_batch_size": 2, "training__gradient_accumulation_steps": 4}
    assert_alike(whole, _write(prepare_run, make_sft, **keys))


def test_padding_free_batches_train_as_padded_ones(prepare_run, make_sft):
    padded = _write(prepare_run, make_sft, sft={"max_length": 128, "padding_free": False})
    flat = _write(prepare_run, make_sft)
    assert flat.trainer.data_collator.padding_free
    assert not padded.trainer.data_collator.padding_free
    assert_alike(padded, flat)


def test_packed_rows_train_as_unpacked_ones(prepare_run, make_sft):
    """With all rows in every step, their distribution over packed rows cannot matter."""
    keys = {"training__per_device_train_batch_size": 48, "training__max_steps": 3}
    plain = _write(prepare_run, make_sft, **keys)
    packed = _write(prepare_run, make_sft, sft={"max_length": 256, "packing": True}, **keys)
    assert packed.data.num_train_rows < 48 / 2
    assert_alike(plain, packed)


@pytest.mark.parametrize(
    "layout",
    [
        {"max_length": 256, "packing": True},
        pytest.param({"max_length": 128}, marks=pytest.mark.slow),
        pytest.param({"max_length": 128, "padding_free": False}, marks=pytest.mark.slow),
    ],
)
def test_a_cached_run_trains_as_an_uncached_one(prepare_run, make_sft, layout):
    keys = {"training__max_steps": -1, "training__num_train_epochs": 3, "training__per_device_train_batch_size": 16}
    keys["sft"] = layout
    plain = _write(prepare_run, make_sft, **keys)
    cached = _write(prepare_run, make_sft, {**SIDE, "cache": "auto"}, **keys)
    assert_alike(plain, cached)
    counts = cached.trainer.model.base_model.__dict__["_replay"].counts
    assert counts.num_replayed >= 2 * 48


@pytest.mark.parametrize("family", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_cached_classifier_trains_and_scores_as_an_uncached_one(prepare_run, make_config, family):
    keys = {**SGD, "training__learning_rate": 0.05, "training__num_train_epochs": 3}
    plain, cached = (
        _train(prepare_run, make_config(family, peft={**SIDE, "cache": cache}, **keys)) for cache in ("off", "auto")
    )
    assert_alike(plain, cached)
    assert cached.trainer.evaluate()["eval_loss"] == pytest.approx(plain.trainer.evaluate()["eval_loss"], abs=1e-5)
    assert cached.trainer.model.base_model.__dict__["_replay"].counts.num_replayed > 0


def test_generating_during_training_changes_no_weight(prepare_run, make_sft):
    silent = _write(prepare_run, make_sft)
    writing = _write(prepare_run, make_sft, evaluation={"steps": 2, "max_samples": 5}, generation={"max_new_tokens": 8})
    assert read_losses(silent) == read_losses(writing)
    logged = [log for log in writing.trainer.state.log_history if any(key.endswith("em_strict") for key in log)]
    assert [log["step"] for log in logged] == [2, 4, 6]
