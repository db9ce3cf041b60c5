"""The results of eva, corda and lora_ga are cached on disk: the same initialisation, bit for bit, without the pass."""

from __future__ import annotations

import logging

import pytest
import torch

SMALL = {"lora_r": 4, "lora_alpha": 8, "init_rows": 16, "init_batch_size": 8}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "init"


def read_start(attached):
    """Return all weights, including the base's, and the next random number."""
    return {**attached.model.state_dict(), "random": torch.rand(3)}


def is_same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("init", ["eva", "corda", "lora_ga"])
def test_cached_initialisation_equals_computed_initialisation(attach, cache, caplog, init):
    caplog.set_level(logging.INFO)
    keys = {**SMALL, "init_lora_weights": init}
    without = read_start(attach("llama", "lora", **keys))
    assert not cache.exists()
    first = read_start(attach("llama", "lora", **keys, init_cache=True))
    [file] = cache.iterdir()
    assert file.name.startswith(f"{init}-")
    assert "computed before" not in caplog.text
    second = read_start(attach("llama", "lora", **keys, init_cache=True))
    assert "computed before" in caplog.text
    assert is_same(first, without)
    assert is_same(second, without)
    assert [*cache.iterdir()] == [file]


def test_other_rows_settings_or_layers_miss_the_cache(attach, cache):
    keys = {**SMALL, "init_lora_weights": "eva", "init_cache": True}
    for changed in ({}, {"init_rows": 12}, {"lora_r": 2}, {"eva_rho": 1.0}, {"target_modules": ["q_proj"]}):
        attach("llama", "lora", **{**keys, **changed})
    attach("qwen2", "lora", **keys)
    assert len([*cache.iterdir()]) == 6
    attach("llama", "lora", **{**keys, "lora_alpha": 16})  # not part of the cache key
    assert len([*cache.iterdir()]) == 6


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_cache_file_is_recomputed(attach, cache, caplog, damage):
    keys = {**SMALL, "init_lora_weights": "lora_ga", "init_cache": True}
    without = read_start(attach("llama", "lora", **keys))
    [file] = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert is_same(read_start(attach("llama", "lora", **keys)), without)
    assert f"{file} is damaged; it is computed again" in caplog.text
    caplog.clear()
    assert is_same(read_start(attach("llama", "lora", **keys)), without)
    assert not caplog.text


def test_an_unwritable_cache_folder_does_not_stop_the_run(attach, cache, caplog):
    cache.parent.mkdir()
    cache.write_text("a file")
    attach("llama", "lora", **SMALL, init_lora_weights="lora_ga", init_cache=True)
    assert "cannot be written" in caplog.text
