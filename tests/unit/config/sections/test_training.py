"""Training settings: every field of the installed TrainingArguments belongs to exactly one class."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from utils.config.installed import read_fields
from utils.config.sections.training import (
    _BOUNDS,
    _CHOICES,
    DROPPED,
    OURS,
    PLUGIN_KEYS,
    RENAMED,
    OwnTrainingSection,
    training_section,
)
from utils.core import registry
from utils.run_config.load import resolve_arguments
from utils.tasks.sft.section import OURS as SFT_OURS
from utils.tasks.sft.section import sft_section
from utils.tasks.task import default_task


@pytest.fixture(scope="module")
def installed() -> Any:
    from transformers import TrainingArguments

    return TrainingArguments


def test_fields_read_from_the_source_equal_the_dataclass_fields(installed: Any) -> None:
    real = {field.name for field in fields(installed) if field.init}
    assert set(read_fields("transformers.training_args", "TrainingArguments")) == real
    assert len(real) > 80


def test_every_field_has_one_class(installed: Any) -> None:
    real = {field.name for field in fields(installed) if field.init}
    passed_through = set(training_section().model_fields) - set(OwnTrainingSection.model_fields)
    assert passed_through | set(OURS) == real
    assert not passed_through & set(OURS)
    own = set(OwnTrainingSection.model_fields) - set(OURS)
    assert not own & real, "one of our fields now has a library field's name: remove one of them"


def test_names_removed_upstream_are_really_gone(installed: Any) -> None:
    real = {field.name for field in fields(installed)}
    assert not set(RENAMED) & real
    assert not set(DROPPED) & real
    assert not set(RENAMED) & set(DROPPED)
    assert set(RENAMED.values()) <= real


def test_bounds_and_choices_name_existing_fields(installed: Any) -> None:
    assert set(_BOUNDS) | set(_CHOICES) <= {field.name for field in fields(installed)}


def test_the_librarys_own_defaults_are_accepted(installed: Any) -> None:
    """The values of a default TrainingArguments may be written into the file."""
    from enum import Enum

    section = training_section()
    for field in fields(installed):
        default = field.default.value if isinstance(field.default, Enum) else field.default
        if field.init and field.name in section.model_fields and isinstance(default, (int, float, str, bool)):
            read = section.model_validate({"output_dir": "out", field.name: default})
            assert getattr(read, field.name) == default, field.name


def test_choices_equal_the_librarys(installed: Any) -> None:
    from typing import get_args

    from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    annotations = {name: field.annotation for name, field in training_section().model_fields.items()}
    for name, enum in {
        "eval_strategy": IntervalStrategy,
        "save_strategy": SaveStrategy,
        "lr_scheduler_type": SchedulerType,
        "optim": OptimizerNames,
    }.items():
        others = set(registry.names(PLUGIN_KEYS[name])) if name in PLUGIN_KEYS else set()
        assert set(get_args(annotations[name])) == {member.value for member in enum} | others


def test_resolved_arguments_build_real_training_arguments(installed: Any, tmp_path: Any) -> None:
    settings = {
        "output_dir": str(tmp_path),
        "eval_strategy": "steps",
        "eval_steps": 5,
        "learning_rate": "3e-4",
        "use_cpu": True,
        "warmup_steps": 0.06,
        "optim": "adamw_torch",
        "lr_scheduler_kwargs": {},
    }
    section = training_section().model_validate(settings)
    resolved = resolve_arguments(section, default_task("SEQ_CLS"), 7, "f1")
    arguments = installed(**resolved, output_dir=section.output_dir)
    assert arguments.eval_steps == arguments.save_steps == 5
    assert arguments.learning_rate == 3e-4
    assert arguments.data_seed == 7
    assert arguments.load_best_model_at_end
    assert arguments.metric_for_best_model == "f1"
    assert arguments.train_sampling_strategy == "group_by_length"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}),
        ({"eval_strategy": "no"}, {"save_strategy": "epoch", "load_best_model_at_end": False}),
        ({"eval_strategy": "steps"}, {"save_strategy": "steps", "eval_steps": 10, "save_steps": 10}),
        ({"eval_strategy": "steps", "eval_steps": None, "logging_steps": 3}, {"eval_steps": 3, "save_steps": 3}),
        ({"eval_strategy": "steps", "eval_steps": 4, "save_steps": 8}, {"eval_steps": 4, "save_steps": 8}),
        ({"save_strategy": "no"}, {"load_best_model_at_end": False}),
        ({"save_strategy": "best"}, {"load_best_model_at_end": True, "metric_for_best_model": "f1"}),
        ({"data_seed": None}, {"data_seed": None}),
        ({"save_total_limit": None}, {"save_total_limit": None}),
    ],
)
def test_written_values_override_our_defaults(written: dict[str, Any], expected: dict[str, Any]) -> None:
    section = training_section().model_validate({"output_dir": "out", **written})
    resolved = resolve_arguments(section, default_task("SEQ_CLS"), 1, "f1")
    assert {key: resolved[key] for key in expected} == expected


def test_language_models_keep_the_librarys_strategy() -> None:
    section = training_section().model_validate({"output_dir": "out"})
    resolved = resolve_arguments(section, default_task("CAUSAL_LM"), 1, None)
    assert "eval_strategy" not in resolved
    assert "train_sampling_strategy" not in resolved
    assert not resolved["load_best_model_at_end"]


def test_a_bare_section_sets_nothing() -> None:
    assert training_section().model_validate({"output_dir": "out", "class_weights": [1, 2]}).arguments == {}


@pytest.mark.parametrize(
    "values",
    [
        {"output_dir": ""},
        {"learning_rate": 0},
        {"optim": "adam"},
        {"eval_strategy": True},
        {"num_train_epochs": -1},
        {"report_to": 5},
        {"eval_steps": 0},
        {"train_sampling_strategy": "longest"},
        {"early_stopping_patience": 0},
        {"class_weights": "even"},
        {"head_learning_rate": 0},
        {"logging_steps": 0},
        {"label_smoothing_factor": 1},
    ],
)
def test_refused_settings(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        training_section().model_validate({"output_dir": "out", **values})


def test_sft_only_fields_are_in_the_sft_section() -> None:
    names = set(sft_section().model_fields)
    shared = set(read_fields("transformers.training_args", "TrainingArguments"))
    declared = set(read_fields("trl.trainer.sft_config", "SFTConfig"))
    assert {"max_length", "packing", "completion_only_loss"} <= names
    assert not names & shared
    assert names | set(SFT_OURS) == declared - shared
    assert set(SFT_OURS) <= declared
