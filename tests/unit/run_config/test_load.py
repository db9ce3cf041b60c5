"""Numbered checks continue after a failure, and no user input ends in a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.config.run_config import RunConfig
from utils.config.yaml_text import dump_yaml
from utils.core.errors import ConfigError
from utils.run_config import load_run_config
from utils.run_config.load import TITLES, inspect_run_config

Write = Callable[..., Path]


def test_a_valid_file_passes_every_check(write_run: Write) -> None:
    inspection = inspect_run_config(write_run())
    assert [check.title for check in inspection.checks] == [*TITLES]
    assert inspection.problems == []
    assert inspection.config is not None


def test_an_unreadable_file_ends_at_the_first_check(tmp_path: Path) -> None:
    inspection = inspect_run_config(tmp_path / "nowhere.yaml")
    assert [check.title for check in inspection.checks] == [*TITLES[:1]]
    assert inspection.config is None


def test_checks_continue_after_a_failure(write_run: Write) -> None:
    file = write_run(
        peft={"lora_r": 0},
        dataset={"name": "./nowhere.csv", "subset": None, "text_column": ["a", "b", "c"]},
        sft={"packing": True},
    )
    checks = {check.title: [problem.path for problem in check.problems] for check in inspect_run_config(file).checks}
    assert checks == {
        "reads as YAML": [],
        "keys and values": ["peft.lora_r"],
        "combinations": ["sft", "dataset.text_column"],
        "files": ["dataset.path"],
    }


def test_combinations_that_need_the_whole_file_are_reported_too(write_run: Write) -> None:
    inspection = inspect_run_config(write_run(training={"fp16": True, "bf16": True, "eval_steps": 5}))
    assert inspection.config is None
    assert [problem.path for problem in inspection.checks[2].problems] == ["training.fp16"]
    assert "training.eval_steps: has no effect" in inspection.checks[4].warnings[0]


ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e400, float("nan"), "", " ", "x", "你好", ".", "/", "~", "a/b", "a\nb", "true",
    "1e5", [], [1], ["a"], [None], [[]], {}, {"a": 1}, {"a": {"b": []}}, {"": ""}, "x" * 200, 10**30, ["a"] * 300,
]  # fmt: skip


def odd_places() -> list[str]:
    keys = [
        "task_name",
        "task_type",
        "seed",
        "model",
        "peft",
        "dataset",
        "training",
        "sft",
        "results",
        "extends",
        "task",
    ]
    keys += [f"model.{key}" for key in ("name_or_path", "dtype", "quantization", "token", "load_in_4bit", "device_map")]
    keys += [f"model.{key}" for key in ("chat_template", "extra_special_tokens", "bnb_4bit_quant_type", "max_length")]
    keys += [f"peft.{key}" for key in ("method", "task_type", "lora_r", "target_modules", "rank_pattern", "r")]
    keys += [f"dataset.{key}" for key in ("name", "path", "subset", "text_column", "num_labels", "max_length", "task")]
    keys += [f"dataset.{key}" for key in ("label_names", "metrics", "validation_path", "label_column")]
    keys += [f"training.{key}" for key in ("output_dir", "eval_strategy", "eval_steps", "save_steps", "save_strategy")]
    keys += [f"training.{key}" for key in ("class_weights", "metric_for_best_model", "load_best_model_at_end", "optim")]
    keys += [
        f"training.{key}" for key in ("group_by_length", "warmup_ratio", "report_to", "max_steps", "logging_steps")
    ]
    keys += [f"training.{key}" for key in ("lr_scheduler_type", "fp16", "early_stopping_patience", "deepspeed", "fsdp")]
    return keys + [f"results.{key}" for key in ("formats", "language")] + ["sft.max_length", "model.quantization.bits"]


def read(file: Path, *overrides: str) -> RunConfig | ConfigError:
    try:
        return load_run_config(file, overrides)
    except ConfigError as error:
        return error


@pytest.mark.parametrize("key", odd_places())
def test_no_invalid_value_ends_in_a_traceback(key: str, write_run: Write) -> None:
    """Any value at any key gives either a configuration or a ConfigError with locations."""
    custom = key.startswith("dataset.") and key not in ("dataset.name", "dataset.subset")
    file = write_run(**({"dataset": {"name": "custom", "path": "a/b", "subset": None}} if custom else {}))
    for value in ODD:
        text = repr(value) if isinstance(value, dict) else dump_yaml({"x": value})[2:].strip()
        outcome = read(file, f"{key}={text}")
        if isinstance(outcome, ConfigError):
            assert outcome.problems, text
            assert all(problem.message and problem.place for problem in outcome.problems), str(outcome)
        else:
            assert outcome.to_yaml()


def test_random_files_end_in_a_configuration_or_a_report(write_run: Write, tmp_path: Path) -> None:
    text = write_run(training={"eval_strategy": "steps", "eval_steps": 5}).read_text() + "x: &a [1]\ny: *a\n"
    draw = random.Random(0)
    file = tmp_path / "random.yaml"
    for _ in range(200):
        letters = list(text)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(letters))
            letters[at : at + draw.randint(0, 3)] = draw.choice(
                [" ", "\t", "\n", ":", "-", "[", "{", "&a", "*a", "!", "'", "#", "\x00", "é"]
            )
        file.write_text("".join(letters), encoding="utf-8")
        outcome = read(file)
        if isinstance(outcome, ConfigError):
            assert all(problem.message and str(file) in problem.place for problem in outcome.problems)


@pytest.mark.parametrize(
    ("sections", "words", "keys"),
    [
        (
            {"sft": {"packing": True}},
            ["training.global_batch_size=62", "training.per_device_train_batch_size=16"],
            ["sft", "training.global_batch_size"],
        ),
        (
            {"peft": {"lora_rr": 1}, "training": {"load_best_model_at_end": True, "eval_strategy": "no"}},
            [],
            ["peft.lora_rr", "training.load_best_model_at_end"],
        ),
        (
            {"model": {"name_or_path": None, "dtype": "x"}, "training": {"metric_for_best_model": "bleu"}},
            [],
            ["model.name_or_path", "model.dtype", "training.metric_for_best_model"],
        ),
        ({"training": {"eval_strategy": "weekly", "load_best_model_at_end": True}}, [], ["training.eval_strategy"]),
        ({"dataset": {"subset": "nonsense"}, "training": {"bf16": True, "fp16": True}}, [], ["dataset.subset"]),
    ],
)
def test_a_mistake_neither_hides_nor_causes_others(
    sections: dict[str, Any], words: list[str], keys: list[str], write_run: Callable[..., Path]
) -> None:
    problems = inspect_run_config(write_run(**sections), words).problems
    assert sorted(problem.path for problem in problems) == sorted(keys), "\n".join(map(str, problems))
