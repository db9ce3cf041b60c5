"""Older names: renamed with one notice each, refused if both names are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.config.sections.training import DROPPED, RENAMED, training_section
from utils.core.errors import ConfigError
from utils.run_config import load_run_config

Write = Callable[..., Path]

SAMPLES: dict[str, tuple[Any, Any]] = {
    "evaluation_strategy": ("epoch", "epoch"),
    "no_cuda": (True, True),
    "per_gpu_train_batch_size": (4, 4),
    "per_gpu_eval_batch_size": (4, 4),
    "push_to_hub_model_id": ("me/x", "me/x"),
    "torchdynamo": ("inductor", "inductor"),
    "num_epochs": (2, 2),
    "epochs": (2, 2),
    "lr": (1e-4, 1e-4),
    "train_batch_size": (4, 4),
    "eval_batch_size": (4, 4),
    "warmup_ratio": (0.1, 0.1),
    "group_by_length": (True, "group_by_length"),
    "batch_size": (4, 4),
}
"""Every older field name of training:, with an example and its present meaning."""


def test_every_renamed_field_has_an_example_and_a_target() -> None:
    assert set(SAMPLES) | {"push_to_hub_token"} == set(RENAMED)
    assert {new for old, new in RENAMED.items() if old in SAMPLES} <= set(training_section().model_fields)
    assert not set(RENAMED) & set(training_section().model_fields)


@pytest.mark.parametrize("old", SAMPLES)
def test_older_names_are_renamed_with_a_notice(old: str, write_run: Write) -> None:
    written, meant = SAMPLES[old]
    config = load_run_config(write_run(training={old: written}))
    assert config.arguments[RENAMED[old]] == meant
    (notice,) = config.notices
    assert f"training.{old}: now called training.{RENAMED[old]}; read as that" in notice


@pytest.mark.parametrize("old", [*SAMPLES])
def test_both_names_are_refused(old: str, write_run: Write) -> None:
    written, meant = SAMPLES[old]
    with pytest.raises(ConfigError, match=f"training.{old}: two names for one setting; training.{RENAMED[old]} is"):
        load_run_config(write_run(training={old: written, RENAMED[old]: meant}))


@pytest.mark.parametrize("old", [*SAMPLES])
def test_of_two_names_the_overriding_one_counts(old: str, write_run: Write) -> None:
    written, meant = SAMPLES[old]
    new = RENAMED[old]
    other = {"epoch": "steps", "me/x": "you/x", "inductor": "eager", "group_by_length": "random"}.get(meant, meant * 2)
    words = {old: str(written), new: str(meant)}
    below_new = write_run("new", training={new: other})
    assert load_run_config(below_new, [f"training.{old}={words[old]}"]).arguments[new] == meant
    below_old = write_run("old", training={old: other if old != "no_cuda" else False})
    config = load_run_config(below_old, [f"training.{new}={words[new]}"])
    assert config.arguments[new] == meant
    assert config.notices == ()
    above = write_run("above", bare=True, extends="old.yaml", training={new: meant})
    assert load_run_config(above).arguments[new] == meant


def test_of_two_locations_the_overriding_one_counts(write_run: Write) -> None:
    file = write_run(dataset={"max_length": 32})
    assert load_run_config(file, ["training.max_seq_length=64"]).dataset.model_dump()["max_length"] == 64


@pytest.mark.parametrize("old", DROPPED)
def test_older_names_without_effect_are_dropped_with_a_notice(old: str, write_run: Write) -> None:
    config = load_run_config(write_run(training={old: True}))
    assert old not in config.arguments
    (notice,) = config.notices
    assert f"training.{old}: has no effect any more; {DROPPED[old]}" in notice


@pytest.mark.parametrize(
    ("value", "strategy"),
    [
        (True, "group_by_length"),
        (False, "random"),
        ("no", "random"),
        ("off", "random"),
        ("false", "random"),
        ("yes", "group_by_length"),
        ("True", "group_by_length"),
        (0, "random"),
        (1, "group_by_length"),
    ],
)
def test_group_by_length_in_every_spelling(value: Any, strategy: str, write_run: Write) -> None:
    config = load_run_config(write_run(training={"group_by_length": value}))
    assert config.arguments["train_sampling_strategy"] == strategy


def test_a_group_by_length_that_is_not_boolean(write_run: Write) -> None:
    with pytest.raises(
        ConfigError, match="'sometimes' is not allowed; use one of: random, sequential, group_by_length"
    ):
        load_run_config(write_run(training={"group_by_length": "sometimes"}))


@pytest.mark.parametrize(
    ("ratio", "accepted"),
    [(0, True), (0.0, True), (0.999, True), ("0.06", True), (1, False), (1.0, False), (100, False)],
)
def test_warmup_ratio_never_becomes_a_number_of_steps(ratio: Any, accepted: bool, write_run: Write) -> None:
    file = write_run(training={"warmup_ratio": ratio})
    if accepted:
        assert load_run_config(file).arguments["warmup_steps"] == float(ratio)
    else:
        with pytest.raises(ConfigError, match=r"training\.warmup_ratio: .* use a share below 1, or warmup_steps"):
            load_run_config(file)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"load_in_4bit": True}, (4, "nf4", True, "bfloat16")),
        ({"load_in_4bit": "yes"}, (4, "nf4", True, "bfloat16")),
        ({"load_in_8bit": True}, (8, "int8", True, "bfloat16")),
        ({"load_in_4bit": False}, None),
        ({"load_in_4bit": "off", "load_in_8bit": "no"}, None),
        ({"load_in_4bit": None, "bnb_4bit_quant_type": "fp4"}, None),
        ({"bnb_4bit_quant_type": "fp4"}, None),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_compute_dtype": "fp16"},
            (4, "fp4", True, "float16"),
        ),
        ({"load_in_8bit": True, "bnb_4bit_use_double_quant": False}, (8, "int8", True, "bfloat16")),
        ({"quantization": {"bits": 4, "bnb_4bit_quant_type": "fp4"}}, (4, "fp4", True, "bfloat16")),
        ({"quantization": {"load_in_4bit": False, "bnb_4bit_quant_type": "fp4"}}, None),
        ({"quantization": {"bits": 4}, "bnb_4bit_use_double_quant": False}, (4, "nf4", False, "bfloat16")),
        ({"quantization": {"bits": 8}, "load_in_8bit": True}, (8, "int8", True, "bfloat16")),
        ({"quantization_config": {"load_in_8bit": True}}, (8, "int8", True, "bfloat16")),
        ({"quantization": None}, None),
        ({"quantization": "none"}, None),
    ],
)
def test_quantization(model: dict[str, Any], expected: tuple[Any, ...] | None, write_run: Write) -> None:
    found = load_run_config(write_run(model=model)).model.quantization
    assert (None if found is None else tuple(found.model_dump().values())) == expected


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            {"load_in_4bit": True, "load_in_8bit": True},
            "load_in_8bit: contradicts model.quantization; keep one of them",
        ),
        ({"load_in_4bit": True, "quantization": "int8"}, "load_in_4bit: contradicts model.quantization"),
        ({"load_in_4bit": True, "quantization": {"bits": 8}}, "load_in_4bit: contradicts model.quantization"),
        ({"load_in_4bit": "perhaps"}, "model.load_in_4bit: 'perhaps' is not allowed; use true or false"),
        (
            {"quantization": "nf4", "bnb_4bit_compute_dtype": "float16"},
            "two names for one setting; model.quantization is",
        ),
        ({"quantization": {"type": "nf4"}, "bnb_4bit_quant_type": "fp4"}, "model.quantization.type is written too"),
    ],
)
def test_contradictory_quantization(model: dict[str, Any], sentence: str, write_run: Write) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_run_config(write_run(model=model))


def test_options_may_be_in_different_sections(write_run: Write) -> None:
    config = load_run_config(write_run(load_in_4bit=True, training={"bnb_4bit_compute_dtype": "float32"}))
    assert config.model.quantization is not None
    assert config.model.quantization.compute_dtype == "float32"
    assert len(config.notices) == 2


def test_a_moved_mapping_keeps_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "task_type: SEQ_CLS\nmodel:\n  name_or_path: x/y\n  quantization_config:\n    load_in_4bit: true\n    bitz: 3\n"
        "dataset: {name: glue, subset: rte}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_run_config(file)
    assert str(caught.value) == f"{file}:6  model.quantization.bitz: unknown key; did you mean bits?"


@pytest.mark.parametrize(("task_type", "home"), [("SEQ_CLS", "dataset"), ("CAUSAL_LM", "sft"), ("causal_lm", "sft")])
@pytest.mark.parametrize("parent", ["training", "model", ""])
@pytest.mark.parametrize("name", ["max_length", "max_seq_length"])
def test_max_length_moves_to_the_tasks_section(
    task_type: str, home: str, parent: str, name: str, write_run: Write
) -> None:
    written = {parent: {name: 77}} if parent else {name: 77}
    config = load_run_config(write_run(task_type=task_type, dataset={"name": "a/b", "subset": None}, **written))
    assert config.to_dict()[home]["max_length"] == 77


def test_a_literal_token_under_any_name_is_refused_and_not_repeated(write_run: Write) -> None:
    secret = "hf_" + "x" * 20
    for sections in (
        {"model": {"token": secret}},
        {"model": {"use_auth_token": secret}},
        {"training": {"use_auth_token": secret}},
        {"training": {"hub_token": secret}},
        {"training": {"push_to_hub_token": secret}},
    ):
        with pytest.raises(ConfigError, match="HF_TOKEN") as caught:
            load_run_config(write_run(**sections))
        assert secret not in str(caught.value)


@pytest.mark.parametrize("spelling", ["SEQ_CLS", "seq_cls", "classification", "Sequence_Classification", "seq-cls"])
def test_both_spellings_of_task_type(spelling: str, write_run: Write) -> None:
    config = load_run_config(write_run(task_type=spelling, peft={"task_type": spelling}))
    assert config.task_type == config.peft.task_type == "SEQ_CLS"


FILES: dict[str, dict[str, Any]] = {
    "top": {"load_in_4bit": True},
    "model": {"model": {"load_in_4bit": True}},
    "training": {"training": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}},
    "short": {"model": {"quantization": "nf4"}},
    "long": {"model": {"quantization": {"bits": 4, "type": "fp4"}}},
    "config": {"model": {"quantization_config": {"load_in_4bit": True}}},
}
"""Ways to write 4 bits in a file."""


WORDS = [
    ("model.quantization=null", None), ("quantization=null", None), ("load_in_4bit=false", None),
    ("model.load_in_4bit=false", None), ("model.quantization=int8", 8), ("load_in_8bit=true", 8),
    ("model.load_in_8bit=true", 8), ("model.quantization={bits: 8, type: int8}", 8), ("load_in_4bit=true", 4),
    ("load_in_8bit=false", 4), ("model.quantization=nf4", 4), ("seed=1", 4),
]  # fmt: skip


@pytest.mark.parametrize("written", FILES)
def test_the_overriding_bits_setting_counts(written: str, write_run: Write) -> None:
    for word, bits in WORDS:
        config = load_run_config(write_run("base", **FILES[written]), [word])
        found = config.model.quantization
        assert (found and found.bits) == bits, word
        above = write_run("above", bare=True, extends="base.yaml", seed=3)
        assert load_run_config(above, [word]).model.quantization == found, word


def test_four_bit_options_are_merged(write_run: Write) -> None:
    older = write_run("older", quantization_config={"load_in_4bit": True, "bnb_4bit_compute_dtype": "float16"})
    kept = load_run_config(older, ["model.quantization.type=fp4"]).model.quantization
    assert (kept.bits, kept.type, kept.compute_dtype) == (4, "fp4", "float16")
    file = write_run(load_in_4bit=True, training={"bnb_4bit_quant_type": "fp4"})
    for word in ("bnb_4bit_quant_type=nf4", "model.quantization.type=nf4", "model.bnb_4bit_quant_type=nf4"):
        found = load_run_config(file, [word]).model.quantization
        assert (found.bits, found.type) == (4, "nf4")
