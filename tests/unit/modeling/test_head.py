"""A new head depends only on the seed; a trained head is kept."""

from __future__ import annotations

import pytest
import torch

from utils.modeling.head import list_new_modules, reinitialize_head

HEADS = {
    "llama": ["score"],
    "gpt2": ["score"],
    "bert": ["bert.pooler.dense", "classifier"],
    "deberta": ["classifier", "pooler.dense"],
    "distilbert": ["classifier", "pre_classifier"],
    "modernbert": ["classifier"],
}


def split(model):
    """Split a model's weights into those of the new modules and the others."""
    modules = tuple(f"{name}." for name in list_new_modules(model))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    new = {name: tensor for name, tensor in state.items() if name.startswith(modules)}
    return new, {name: tensor for name, tensor in state.items() if name not in new}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_depends_on_the_seed_only(make_checkpoint, load, kind):
    one, _ = load(kind, folder=make_checkpoint(kind, seed=1), seed=42)
    torch.manual_seed(9)
    two, _ = load(kind, folder=make_checkpoint(kind, seed=2), seed=42)
    other, _ = load(kind, folder=make_checkpoint(kind, seed=1), seed=43)
    assert list_new_modules(one) == HEADS[kind]
    assert same(split(one)[0], split(two)[0])
    assert not same(split(one)[1], split(two)[1]), "the checkpoints must differ for this to prove anything"
    assert not same(split(one)[0], split(other)[0])
    assert same(split(one)[1], split(other)[1]), "loaded weights must not depend on the seed"


@pytest.mark.parametrize("kind", HEADS)
def test_redrawing_changes_only_the_head_and_keeps_the_librarys_standard_deviation(load, kind):
    """The library's own initialisation, averaged over many seeds, has the same standard deviation."""
    model, _ = load(kind, seed=None)
    library, body = split(model)
    draws = []
    for seed in range(20):
        reinitialize_head(model, seed)
        new, rest = split(model)
        draws.append(new)
        assert same(rest, body)
    for name, tensor in library.items():
        spread = torch.stack([draw[name] for draw in draws]).std()
        if tensor.dim() == 1:
            assert torch.equal(draws[0][name], tensor), "biases start at zero"
        else:
            assert 0.6 < spread / tensor.std() < 1.7, f"{name}: {spread} against {tensor.std()}"


def test_the_head_does_not_depend_on_dtype_or_random_state(load):
    full, _ = load("bert", seed=42)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    half, _ = load("bert", seed=42, dtype="bfloat16")
    reinitialize_head(half, 42)
    assert torch.equal(half.classifier.weight, full.classifier.weight.bfloat16())
    torch.manual_seed(0)
    reinitialize_head(half, 42)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trained_head_is_not_changed(load, tmp_path):
    model, tokenizer = load("bert")
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, _ = load("bert", folder=tmp_path / "saved", seed=None)
    before = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    reinitialize_head(again, 1)
    assert list_new_modules(again) == []
    assert same(again.state_dict(), before)


def test_the_new_head_is_trainable(load):
    model, tokenizer = load("llama")
    model(**tokenizer(["w1 w2"], return_tensors="pt"), labels=torch.tensor([1])).loss.backward()
    assert model.score.weight.grad.abs().sum() > 0
