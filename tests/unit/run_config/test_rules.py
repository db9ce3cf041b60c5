"""Combinations that cannot work are refused; settings without effect are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import ConfigError
from utils.run_config import load_run_config

Write = Callable[..., Path]
STEPS = {"eval_strategy": "steps", "load_best_model_at_end": True}


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"training": {**STEPS, "eval_steps": 100, "save_steps": 50}}, "multiple of eval_steps (100), found 50"),
        ({"training": {**STEPS, "eval_steps": 0.1, "save_steps": 0.25}}, "multiple of eval_steps (0.1), found 0.25"),
        ({"training": {**STEPS, "eval_steps": 0.5, "save_steps": 10}}, "multiple of eval_steps (0.5), found 10"),
        (
            {"training": {**STEPS, "save_strategy": "epoch"}},
            "needs save_strategy (epoch) equal to eval_strategy (steps)",
        ),
        ({"training": {"eval_strategy": "no", "early_stopping_patience": 2}}, "needs evaluations; set training.eval"),
        (
            {"training": {"eval_steps": 10.5, "eval_strategy": "steps"}},
            "10.5 is not allowed; use a whole number of steps",
        ),
        ({"training": {"logging_steps": 2.5}}, "2.5 is not allowed; use a whole number of steps, or a share below 1"),
        ({"training": {"bf16_full_eval": True, "fp16_full_eval": True}}, "not together with training.bf16_full_eval"),
        (
            {"training": {"metric_for_best_model": "acuracy"}},
            "no classification metric called acuracy; did you mean accuracy?",
        ),
        ({"training": {"metric_for_best_model": "eval_mse"}}, "no classification metric called mse"),
        (
            {"dataset": {"subset": "stsb"}, "training": {"metric_for_best_model": "f1_macro"}},
            "no regression metric called f1_m",
        ),
        ({"dataset": {"name": "a/b", "subset": None, "metrics": ["rouge"]}}, "no classification metric called rouge"),
        (
            {"dataset": {"name": "a/b", "subset": None, "text_column": ["a", "b", "c"]}},
            "takes one or two columns, found 3",
        ),
        ({"dataset": {"label_column": "gold"}}, "GLUE's label column is called label; leave the key out"),
        ({"model": {"chat_template": "./nowhere.jinja"}}, "chat_template: no file ./nowhere.jinja"),
        ({"peft": {"method": "head-only"}, "model": {"quantization": "int8"}}, "drop model.quantization"),
    ],
)
def test_refused_combinations(sections: dict[str, Any], sentence: str, write_run: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(write_run(**sections))
    assert sentence in str(caught.value)
    assert all(problem.place and problem.path for problem in caught.value.problems)


@pytest.mark.parametrize(
    "training",
    [
        {**STEPS, "eval_steps": 100, "save_steps": 300},
        {**STEPS, "eval_steps": 0.1, "save_steps": 0.3},
        {**STEPS, "eval_steps": None},
        {**STEPS, "save_strategy": "best"},
        {"eval_strategy": "no"},
        {"do_train": False},
        {"metric_for_best_model": "eval_loss"},
        {"metric_for_best_model": "combined_score"},
        {"eval_strategy": "steps", "save_strategy": "no"},
        {"metric_for_best_model": None},
    ],
)
def test_accepted_combinations(training: dict[str, Any], write_run: Write) -> None:
    assert load_run_config(write_run(training=training)).arguments


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"training": {"eval_steps": 10}}, "training.eval_steps"),
        ({"training": {"save_steps": 10}}, "training.save_steps"),
        ({"training": {"num_train_epochs": 2, "max_steps": 5}}, "training.num_train_epochs"),
        ({"training": {"early_stopping_threshold": 0.1}}, "training.early_stopping_threshold"),
        ({"training": {"logging_dir": "x", "report_to": "none"}}, "training.logging_dir"),
        (
            {
                "task_type": "CAUSAL_LM",
                "dataset": {"name": "a/b", "subset": None, "max_length": 64},
                "sft": {"max_length": 8},
            },
            "dataset.max_length",
        ),
        ({"training": {"wandb": {"project": "x"}}}, "training.wandb"),
    ],
)
def test_a_setting_without_effect_is_warned_about(sections: dict[str, Any], key: str, write_run: Write) -> None:
    (warning,) = load_run_config(write_run(**sections)).warnings
    assert f"  {key}: has no effect; " in warning


@pytest.mark.parametrize(
    "training",
    [
        {"logging_dir": "x", "report_to": ["tensorboard", "wandb"]},
        {"logging_dir": "x", "report_to": "all"},
        {"logging_dir": None, "report_to": "none"},
        {"early_stopping_threshold": 0.0},
        {"max_steps": -1, "epochs": 1},
        {"eval_strategy": "steps", "eval_steps": 10, "save_steps": 10},
    ],
)
def test_a_setting_with_effect_is_not_warned_about(training: dict[str, Any], write_run: Write) -> None:
    assert load_run_config(write_run(training=training)).warnings == ()


def test_mistakes_of_all_sections_in_one_report(write_run: Write) -> None:
    file = write_run(
        model={"dtype": 3},
        peft={"lora_r": 0},
        dataset={"subset": "x"},
        training={"optim": "y"},
        results={"language": "fr"},
    )
    with pytest.raises(ConfigError) as caught:
        load_run_config(file)
    assert {problem.path for problem in caught.value.problems} == {
        "model.dtype",
        "peft.lora_r",
        "dataset.subset",
        "training.optim",
        "results.language",
    }
    lines = [int(problem.place.rsplit(":", 1)[1]) for problem in caught.value.problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("training", "metric"),
    [
        ({}, "f1"),
        ({"metric_for_best_model": None}, "f1"),
        ({"metric_for_best_model": "loss"}, "loss"),
        ({"eval_strategy": "no"}, None),
        ({"load_best_model_at_end": False}, None),
        ({"load_best_model_at_end": False, "early_stopping_patience": 2}, "f1"),
        ({"load_best_model_at_end": False, "save_strategy": "best"}, "f1"),
    ],
)
def test_checkpoints_are_compared_by_the_tasks_metric(
    training: dict[str, Any], metric: str | None, write_run: Write
) -> None:
    assert load_run_config(write_run(training=training)).arguments.get("metric_for_best_model") == metric


def test_data_and_model_paths_must_exist(write_run: Write, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    sections = {"dataset": {"name": str(rows), "subset": None}, "model": {"name_or_path": str(tmp_path / "base")}}
    with pytest.raises(ConfigError) as caught:
        load_run_config(write_run(**sections))
    assert {problem.path for problem in caught.value.problems} == {"dataset.path", "model.name_or_path"}
    assert load_run_config(write_run(**sections), files=False)
    rows.write_text("{}\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert load_run_config(write_run(**sections)).dataset.path == str(rows)


_CAUSAL = {"task_type": "CAUSAL_LM", "dataset": {"name": "a/b", "subset": None}}


def test_sections_for_language_models_are_refused_elsewhere(write_run: Write) -> None:
    config = load_run_config(write_run(**_CAUSAL))
    assert config.warnings == ()
    assert (config.max_length, config.generation.max_new_tokens, config.evaluation.at_end) == (1024, 256, True)
    classifier = load_run_config(write_run())
    assert classifier.task_sections == {}
    for name, key in (("sft", "max_length"), ("evaluation", "steps")):
        with pytest.raises(ConfigError, match=f"{name}: is for task_type: CAUSAL_LM only"):
            load_run_config(write_run(**{name: {key: 64}}))


def test_settings_unused_by_language_models_are_warned_about(write_run: Write) -> None:
    sft = {"assistant_only_loss": True, "dataset_num_proc": 4}
    training = {"class_weights": "balanced", "head_learning_rate": 1e-3}
    config = load_run_config(write_run(**_CAUSAL, sft=sft, training=training))
    for key in ("sft.assistant_only_loss", "sft.dataset_num_proc", "training.class_weights", "training.head_learning"):
        assert any(key in warning and "has no effect" in warning for warning in config.warnings), key


def test_a_language_models_best_metric_must_be_measured(write_run: Write) -> None:
    with pytest.raises(ConfigError, match=r"no result called accuracy.*evaluations of the loss give loss, perplexity"):
        load_run_config(write_run(**_CAUSAL, training={"metric_for_best_model": "accuracy"}))
    config = load_run_config(write_run(**_CAUSAL, training={"metric_for_best_model": "eval_token_accuracy"}))
    assert config.arguments["metric_for_best_model"] == "eval_token_accuracy"


@pytest.mark.parametrize(
    ("config", "model", "length", "sentence"),
    [
        ({"model_type": "gpt2", "n_positions": 64}, {}, 65, "use 64 at most"),
        ({"model_type": "llama", "max_position_embeddings": 64}, {}, 128, "factor: 2}"),
        ({"model_type": "llama", "max_position_embeddings": 64},
         {"rope_scaling": {"rope_type": "yarn", "factor": 4}}, 300, "makes room for (256)"),
    ],
)  # fmt: skip
def test_a_length_beyond_a_language_models_positions(
    config: dict[str, Any], model: dict[str, Any], length: int, sentence: str, write_run: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    run = {"task_type": "CAUSAL_LM", "model": {"name_or_path": str(folder), **model}}
    run["dataset"] = {"name": "gsm8k", "subset": None}
    with pytest.raises(ConfigError, match=r"sft\.max_length") as caught:
        load_run_config(write_run(**run, sft={"max_length": length}))
    assert sentence in str(caught.value)
    load_run_config(write_run(**run, sft={"max_length": 64}))
    resolved = write_run("resolved")
    resolved.write_text(load_run_config(write_run(**run)).to_yaml())
    assert load_run_config(resolved).max_length == 1024, "a run's own file, in which the default stands, is read"


def test_settings_of_another_init_are_warned_about_once(write_run: Write) -> None:
    idle = {"init_lora_weights": "pissa", "eva_rho": 1.5, "init_rows": 8, "loraplus_lr_embedding": 1e-5}
    file = write_run(peft={**idle, "init_batch_size": 8})
    said = [warning.partition("  ")[2] for warning in load_run_config(file).warnings]
    assert said == [
        "peft.init_rows: has no effect; it is for init_lora_weights: eva or corda or lora_ga",
        "peft.eva_rho: has no effect; it is for init_lora_weights: eva",
        "peft.loraplus_lr_embedding: has no effect; loraplus_lr_ratio is not set",
    ]
    read = ["peft.init_lora_weights=eva", "peft.loraplus_lr_ratio=16"]
    assert load_run_config(file, read).warnings == ()
    file.write_text(load_run_config(write_run("plain")).to_yaml())
    assert load_run_config(file).warnings == (), "the resolved file writes every default"
