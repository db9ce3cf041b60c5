"""Configs saved with the weights are validated before training: repaired if possible, else refused."""

from __future__ import annotations

import json
import logging

import pytest

from utils.core.errors import ModelError
from utils.modeling.writing import require_writable


def _with_generation_config(folder, **settings):
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.6}, ["temperature", "top_p"]),
        ({"num_beams": 1, "early_stopping": True, "length_penalty": 2.0}, ["early_stopping", "length_penalty"]),
    ],
)
def test_settings_without_effect_are_dropped_with_a_notice(settings, idle, load, make_checkpoint, tmp_path, caplog):
    from transformers import GenerationConfig

    base = _with_generation_config(make_checkpoint("llama"), eos_token_id=[2, 5], **settings)
    model, tokenizer = load("llama", num_labels=None, folder=base)
    with pytest.raises(ValueError, match=idle[0]):
        model.save_pretrained(tmp_path / "lost")
    with caplog.at_level(logging.WARNING):
        require_writable(model, tokenizer)
    told = [each.message for each in caplog.records if "generation settings" in each.message]
    assert len(told) == 1
    assert all(f"{name}: {settings[name]}" in told[0] for name in idle)
    model.save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert saved.eos_token_id == [2, 5]
    assert all(getattr(saved, name) is None for name in idle)
    assert all(getattr(saved, name) == settings[name] for name in settings if name not in idle)


def test_valid_settings_are_kept(load, make_checkpoint, caplog):
    base = _with_generation_config(make_checkpoint("llama"), do_sample=True, temperature=0.9)
    model, tokenizer = load("llama", num_labels=None, folder=base)
    with caplog.at_level(logging.WARNING):
        require_writable(model, tokenizer)
    assert model.generation_config.temperature == 0.9
    assert not [each for each in caplog.records if "generation settings" in each.message]


@pytest.mark.parametrize("what", ["tokenizer", "config.json"])
def test_unsavable_settings_are_refused(what, load):
    model, tokenizer = load("llama", num_labels=3)
    if what == "tokenizer":
        tokenizer.chat_template = "{{ '\ud800' }}"  # a lone surrogate, which no file can hold
    else:
        model.config.extra = {1, 2}  # not JSON
    with pytest.raises(ModelError, match=f"the {what} of .* cannot be written back, which would lose a finished run"):
        require_writable(model, tokenizer)
