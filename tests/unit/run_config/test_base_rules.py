"""What a method cannot do on a base is refused by the base's config.json, with the nearest alternative."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import ConfigError
from utils.modeling.sizes import count_positions
from utils.run_config import load_run_config
from utils.run_config.base_rules import require_fitting_base

Write = Callable[..., Path]
CAUSAL = {"task_type": "CAUSAL_LM", "dataset": {"name": "gsm8k", "subset": None}}
BERT = {"model_type": "bert", "max_position_embeddings": 512, "dtype": "float32"}


def _make_base(folder: Path, **config: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def _refusal(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_config(file)
    return "\n".join(f"{problem.path}: {problem.message}" for problem in caught.value.problems)


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning", "p-tuning"])
def test_virtual_tokens_need_positions(method: str, write_run: Write, tmp_path: Path) -> None:
    model = {"name_or_path": _make_base(tmp_path / "base", **BERT)}
    peft = {"method": method, "num_virtual_tokens": 30}
    said = _refusal(write_run(model=model, peft=peft, dataset={"max_length": 500}))
    assert said.startswith("dataset.max_length: 500 tokens and 30 virtual ones (peft.num_virtual_tokens) are more than")
    assert "512 positions; set it to 482" in said
    load_run_config(write_run(model=model, peft=peft, dataset={"max_length": 482}))
    load_run_config(write_run(model=model, dataset={"max_length": 512}))


def test_language_models_have_their_own_length_limit(write_run: Write, tmp_path: Path) -> None:
    model = {"name_or_path": _make_base(tmp_path / "base", model_type="gpt2", n_positions=1024)}
    said = _refusal(write_run(model=model, peft={"method": "p-tuning"}, **CAUSAL))
    assert said.startswith("sft.max_length: 1024 tokens and 20 virtual ones")
    assert "set it to 1004" in said
    load_run_config(write_run(model=model, peft={"method": "p-tuning"}, sft={"max_length": 1004}, **CAUSAL))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (BERT, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "deberta-v2", "max_position_embeddings": 512, "position_biased_input": False}, None),
        ({"model_type": "llama", "max_position_embeddings": 4096}, 4096),
    ],
)
def test_positions_of_a_base(config: dict[str, Any], positions: int | None) -> None:
    assert count_positions(config) == positions


@pytest.mark.parametrize(
    ("method", "architecture", "remedy"),
    [
        ("prefix-tuning", "deberta-v2", "use p-tuning or prompt-tuning, or lora"),
        ("prefix-tuning", "modernbert", "use p-tuning or prompt-tuning, or lora"),
        ("prefix-tuning", "distilbert", "use p-tuning or prompt-tuning, or lora"),
        ("prefix-tuning", "albert", "use lora, adalora or ia3"),
        ("prompt-tuning", "albert", "use lora, adalora or ia3"),
        ("p-tuning", "albert", "use lora, adalora or ia3"),
        ("shadow", "bert", "use lora"),
    ],
)
def test_architectures_a_method_does_not_support(
    method: str, architecture: str, remedy: str, write_run: Write, tmp_path: Path
) -> None:
    model = {"name_or_path": _make_base(tmp_path / "base", model_type=architecture)}
    said = _refusal(write_run(model=model, peft={"method": method}))
    assert said.startswith(f"peft.method: {method} not on {architecture}; ")
    assert remedy in said


def test_a_hub_base_is_checked_by_its_cached_config(tmp_path: Path, write_run: Write, monkeypatch: Any) -> None:
    """Nothing is known until its config.json is cached; then it is refused, without any weights."""
    file = write_run(model={"name_or_path": "owner/name"}, peft={"method": "prefix-tuning"})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    config = load_run_config(file)
    _make_base(tmp_path / "hub" / "models--owner--name" / "snapshots" / "main", model_type="albert")
    with pytest.raises(ConfigError, match="prefix-tuning not on albert"):
        require_fitting_base(config)
    with pytest.raises(ConfigError, match="prefix-tuning not on albert"):
        load_run_config(file)


def test_pure_float16_training_is_refused(write_run: Write, tmp_path: Path) -> None:
    half = {"name_or_path": _make_base(tmp_path / "half", model_type="llama", torch_dtype="float16")}
    full = {"name_or_path": _make_base(tmp_path / "full", model_type="llama", dtype="float32")}
    for model in (half, {**full, "dtype": "float16"}):
        said = _refusal(write_run(model=model))
        assert said.startswith("model.dtype: what is trained would be float16")
        assert "set bfloat16 or float32, or keep it with training.fp16: true" in said
        load_run_config(write_run(model=model, training={"fp16": True}))
        load_run_config(write_run(model=model, training={"do_train": False}))
    load_run_config(write_run(model={**half, "dtype": "bfloat16"}))


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning", "p-tuning"])
@pytest.mark.parametrize("key", ["packing", "padding_free"])
def test_virtual_tokens_with_packing_are_refused(method: str, key: str, write_run: Write) -> None:
    said = _refusal(write_run(peft={"method": method}, sft={key: True}, **CAUSAL))
    assert said.startswith(f"sft.{key}: not with peft.method: {method}; its virtual tokens are put before a row")
    load_run_config(write_run(peft={"method": method}, **CAUSAL))


@pytest.mark.parametrize("key", ["gradient_checkpointing", "activation_checkpointing"])
def test_a_prefix_with_gradient_checkpointing_is_refused(key: str, write_run: Write) -> None:
    said = _refusal(write_run(peft={"method": "prefix-tuning"}, training={key: True}))
    assert said.startswith(f"training.{key}: not with peft.method: prefix-tuning; layers that are recomputed")
    load_run_config(write_run(peft={"method": "prompt-tuning"}, training={key: True}))


def test_each_method_has_its_own_learning_rate(write_run: Write) -> None:
    for task in ({}, CAUSAL):
        config = load_run_config(write_run(peft={"method": "ia3"}, **task))
        assert config.arguments["learning_rate"] == type(config.peft).DEFAULT_LEARNING_RATE
        assert any("the default of peft.method: ia3" in notice for notice in config.notices)
        assert f"learning_rate: {config.arguments['learning_rate']}" in config.to_yaml()
    written = load_run_config(write_run(peft={"method": "ia3"}, training={"learning_rate": 1e-4}))
    assert written.arguments["learning_rate"] == 1e-4
    assert not written.notices
    assert "learning_rate" not in load_run_config(write_run(peft={"method": "none"})).arguments


def test_virtual_tokens_may_take_at_most_half_of_the_positions(write_run: Write, tmp_path: Path) -> None:
    model = {"name_or_path": _make_base(tmp_path / "base", model_type="llama", max_position_embeddings=256)}
    peft = {"method": "prompt-tuning", "num_virtual_tokens": 129}
    said = _refusal(write_run(model=model, peft=peft, sft={"max_length": 64}, **CAUSAL))
    assert said == "peft.num_virtual_tokens: 129 of the model's 256 positions; leave the text half of them"
    load_run_config(write_run(model=model, peft={**peft, "num_virtual_tokens": 128}, sft={"max_length": 64}, **CAUSAL))


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers"])
def test_a_missing_layer_is_named_before_loading(key: str, write_run: Write, tmp_path: Path) -> None:
    model = {"name_or_path": _make_base(tmp_path / "base", model_type="x", **{key: 2})}
    said = _refusal(write_run(model=model, peft={"target_modules": "all-linear", "layers_to_transform": [0, 99]}))
    assert said == "peft.layers_to_transform: no layer 99: the model has 2, numbered from 0 to 1"
    load_run_config(write_run(model=model, peft={"layers_to_transform": [0, 1]}))


@pytest.mark.parametrize("method", ["lora", "adalora", "vera", "boft"])
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"target_modules": ".*q_proj", "layers_to_transform": 0}, "layers_to_transform: not beside a regular expr"),
        ({"layers_to_transform": [0, -1]}, "layers_to_transform: layers are counted from 0, found -1"),
        ({"layers_to_transform": []}, "layers_to_transform: is empty"),
    ],
)
def test_invalid_layers_are_refused(method: str, keys: dict[str, Any], said: str, write_run: Write) -> None:
    assert said in _refusal(write_run(peft={"method": method, **keys}))


def test_more_layers_than_any_model_has(write_run: Write, tmp_path: Path) -> None:
    model = {"name_or_path": _make_base(tmp_path / "base", model_type="llama", num_hidden_layers=200_000)}
    said = _refusal(write_run(model=model))
    assert said == (
        "model.name_or_path: its config.json counts 200,000 layers, which no model has; it is damaged or made up"
    )
    inner = {"text_config": {"num_hidden_layers": 200_000}}
    said = _refusal(write_run(model={"name_or_path": _make_base(tmp_path / "inner", model_type="llama", **inner)}))
    assert "counts 200,000 layers" in said


@pytest.mark.parametrize(("key", "count"), [("max_position_embeddings", -1), ("n_positions", 0)])
def test_fewer_positions_than_any_model_has(write_run: Write, tmp_path: Path, key: str, count: int) -> None:
    base = _make_base(tmp_path / "base", model_type="llama", num_hidden_layers=2, **{key: count})
    assert f"its config.json counts {count} positions, which no model has" in _refusal(
        write_run(model={"name_or_path": base})
    )
