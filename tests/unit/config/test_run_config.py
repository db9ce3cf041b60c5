"""The resolved file reads back as the same run; the fingerprint covers exactly what determines the results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.config.run_config import RunConfig, find_differences, flatten
from utils.run_config import load_run_config

Write = Callable[..., Path]

RUNS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "texts like numbers": {
        "task_name": "1e5",
        "model": {"name_or_path": "2e-5/x", "revision": "12e45"},
        "training": {"output_dir": "0o17", "report_to": ["tensorboard"], "run_name": "on"},
    },
    "quantized": {"model": {"quantization": {"bits": 4, "type": "fp4", "compute_dtype": "fp16"}}},
    "eight bits": {"model": {"load_in_8bit": True}},
    "full": {"peft": {"method": "none"}},
    "head only": {"peft": {"method": "head_only"}},
    "patterns": {"peft": {"rank_pattern": {"model.layers.0.q": 4}, "lora_alpha": 16.0, "layers_to_transform": [0, 1]}},
    "steps": {
        "training": {"eval_strategy": "steps", "eval_steps": 0.1, "learning_rate": "3e-4", "save_total_limit": None}
    },
    "kwargs": {"training": {"lr_scheduler_kwargs": {"num_cycles": 2, "a": [1, "2", None]}, "optim_args": "a=1,b=2"}},
    "stopping": {"training": {"early_stopping_patience": 2, "class_weights": [1, 2.5], "head_learning_rate": "1e-3"}},
    "regression": {"dataset": {"subset": "stsb", "max_train_samples": 10}},
    "chinese": {"task_name": "情感", "results": {"language": "zh", "formats": ["json"]}},
    "older": {
        "training": {"warmup_ratio": 0.1, "evaluation_strategy": "no", "save_safetensors": True, "max_length": 64}
    },
    "language model": {
        "task_type": "CAUSAL_LM",
        "dataset": {"name": "a/b", "subset": None},
        "sft": {"max_seq_length": 512, "packing": True},
    },
}


def load(write_run: Write, name: str = "run", **sections: Any) -> RunConfig:
    return load_run_config(write_run(name, **sections))


@pytest.mark.parametrize("run", RUNS)
def test_a_written_configuration_reads_back_as_the_same_run(run: str, write_run: Write, tmp_path: Path) -> None:
    config = load(write_run, **RUNS[run])
    file = tmp_path / "resolved.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    again = load_run_config(file)
    assert again.to_dict() == config.to_dict() == yaml.safe_load(config.to_yaml())
    assert again.to_yaml() == config.to_yaml()
    assert again.fingerprint() == config.fingerprint()
    assert again.arguments == config.arguments
    assert again.notices == ()
    assert again.warnings == ()


def test_different_runs_have_different_fingerprints(write_run: Write) -> None:
    configs = {name: load(write_run, **sections) for name, sections in RUNS.items()}
    same = {"defaults", "texts like numbers", "chinese"}  # these differ in names and folders, and in the base model
    prints = [config.fingerprint() for name, config in configs.items() if name not in same - {"defaults"}]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"output_dir": "elsewhere"}}, {"training": {"logging_dir": "logs"}}, {"task_name": "other"},
        {"training": {"logging_steps": 50}}, {"training": {"report_to": "none"}}, {"training": {"save_total_limit": 5}},
        {"results": {"language": "zh"}}, {"results": {"formats": ["json"]}}, {"training": {"disable_tqdm": True}},
        {"peft": {"lora_alpha": 16}}, {"peft": {"lora_alpha": 16.0}}, {"peft": {"lora_r": 8}}, {"seed": 42},
        {"training": {"eval_strategy": "epoch"}}, {"peft": {"task_type": "SEQ_CLS"}}, {"training": {"data_seed": 42}},
    ],
)  # fmt: skip
def test_the_fingerprint_ignores(sections: dict[str, Any], write_run: Write) -> None:
    plain, other = load(write_run), load(write_run, "other", **sections)
    assert other.fingerprint() == plain.fingerprint()
    assert find_differences(plain.to_dict(), other.to_dict()) == {}


@pytest.mark.parametrize(
    ("sections", "key", "old", "new"),
    [
        ({"seed": 43}, "seed", 42, 43), ({"peft": {"lora_r": 4}}, "peft.lora_r", 8, 4),
        ({"model": {"dtype": "bf16"}}, "model.dtype", "auto", "bfloat16"),
        ({"dataset": {"max_length": 64}}, "dataset.max_length", 128, 64),
        ({"training": {"learning_rate": 1e-4}}, "training.learning_rate", None, 1e-4),
        ({"training": {"class_weights": [1, 2]}}, "training.class_weights", None, [1, 2]),
        ({"peft": {"rank_pattern": {"q": 4}}}, "peft.rank_pattern.q", None, 4),
    ],
)  # fmt: skip
def test_the_fingerprint_covers(sections: dict[str, Any], key: str, old: Any, new: Any, write_run: Write) -> None:
    plain, other = load(write_run), load(write_run, "other", **sections)
    assert other.fingerprint() != plain.fingerprint()
    assert find_differences(plain.to_dict(), other.to_dict())[key] == (old, new)


def test_the_seed_of_the_data_order_follows_the_seed(write_run: Write) -> None:
    assert load(write_run, seed=7).arguments["data_seed"] == 7
    assert load(write_run, seed=7, training={"data_seed": 1}).arguments["data_seed"] == 1


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_the_resolved_file_never_holds_a_secret(write_run: Write) -> None:
    config = load(write_run, model={"use_auth_token": True})
    assert config.to_dict()["model"]["token"] is True
    assert "hub_token" not in config.to_yaml()


def test_a_key_missing_from_an_earlier_version_gets_its_default(write_run: Write) -> None:
    new = load(write_run, peft={"rank_pattern": {"q": 4}}).to_dict()
    old = {name: dict(section) if isinstance(section, dict) else section for name, section in new.items()}
    for section, key in (("dataset", "quoting"), ("training", "callbacks"), ("peft", "adapter_path")):
        del old[section][key]
    assert find_differences(old, new) == {}
    assert find_differences(old | {"training": 5}, new)["training"] == (5, None)
    changed = load(write_run, training={"callbacks": ["os:path"]}, peft={"rank_pattern": {"q": 4}}).to_dict()
    assert find_differences(old, changed) == {"training.callbacks": ([], ["os:path"])}
