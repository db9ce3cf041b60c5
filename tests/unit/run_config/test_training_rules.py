"""What several processes cannot do is refused before anything is loaded, at the key that asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.run_config import find_differences
from utils.run_config.load import inspect_run_config

ROOT = Path(__file__).parents[3]
CLASSIFIER, WRITER = (str(ROOT / "configs" / name) for name in ("glue_mrpc.yaml", "gsm8k.yaml"))
ZERO3 = "training.deepspeed=zero3"


def problems_of(file: str, *words: str) -> str:
    return "\n".join(map(str, inspect_run_config(file, words, files=False).problems))


@pytest.mark.parametrize(
    ("file", "words", "sentence"),
    [
        (CLASSIFIER, [ZERO3, "peft.method=qst"], "peft.method: qst not with ZeRO-3; the side network reads"),
        (CLASSIFIER, [ZERO3, "model.quantization=int8"], "model.quantization: 8 bits not with ZeRO-3"),
        (WRITER, [ZERO3, "evaluation.at_end=true"], "set evaluation.at_end: false and score the run by"),
        (WRITER, [ZERO3, "evaluation.steps=5", "evaluation.at_end=false"], "set evaluation.steps: null"),
        (CLASSIFIER, ["training.deepspeed=configs/deepspeed_config.json", "training.head_learning_rate=1e-3"],
         "training.head_learning_rate: not with a DeepSpeed file that names an optimizer"),
        (CLASSIFIER, ["training.deepspeed=zero9"], "training.deepspeed: no file zero9"),
        (CLASSIFIER, ["training.global_batch_size=64", "training.gradient_accumulation_steps=2"],
         "training.gradient_accumulation_steps: follows from training.global_batch_size; keep one"),
    ],
)  # fmt: skip
def test_unsupported_multi_process_settings_are_refused(file: str, words: list[str], sentence: str) -> None:
    assert sentence in problems_of(file, *words)


def test_supported_multi_process_settings_pass() -> None:
    assert problems_of(CLASSIFIER, ZERO3, "model.quantization=nf4") == ""
    assert problems_of(CLASSIFIER, "training.deepspeed=zero2", "peft.method=qst") == ""
    assert problems_of(WRITER, "training.global_batch_size=64", "training.gradient_accumulation_steps=null") == ""
    assert problems_of(WRITER, ZERO3, "evaluation.at_end=false", "evaluation.steps=null") == ""


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "me/a",
        "a_b.c-d",
        "me/" + "x" * 96,
        "a.gitx",
        "a--b",
        "a..b",
        "-a",
        "a.",
        "a.git",
        "x" * 97,
        "a/b/c",
        "caf\u00e9",
    ],
)
def test_a_repository_is_named_as_the_hub_allows(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    said = problems_of(CLASSIFIER, "training.push_to_hub=true", f"training.hub_model_id={name}")
    try:
        validate_repo_id(name)
    except HFValidationError:
        assert f"training.hub_model_id: '{name}' is not a valid repository name" in said
    else:
        assert said == ""


def test_accelerates_fsdp_is_detected_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "qst not with FSDP" in problems_of(CLASSIFIER, "peft.method=qst")


def test_device_map_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems_of(CLASSIFIER, "model.device_map=auto") == ""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "model.device_map: not with 2 processes" in problems_of(CLASSIFIER, "model.device_map=auto")


def test_another_number_of_processes_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("training.global_batch_size=64", "training.per_device_train_batch_size=8")
    alone = inspect_run_config(CLASSIFIER, words, files=False).config
    monkeypatch.setenv("WORLD_SIZE", "4")
    words = ("training.global_batch_size=64", "training.per_device_train_batch_size=16")
    together = inspect_run_config(CLASSIFIER, words, files=False).config
    assert alone is not None
    assert together is not None
    assert [each.arguments["gradient_accumulation_steps"] for each in (alone, together)] == [8, 1]
    assert alone.fingerprint() == together.fingerprint()
    assert find_differences(alone.to_dict(), together.to_dict()) == {}
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "64 rows do not divide into 3 processes of 16 rows; the nearest that do: 48 or 96" in problems_of(
        CLASSIFIER, *words
    )


def test_the_per_device_batch_size_is_an_upper_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("training.global_batch_size=32", "training.per_device_train_batch_size=64")
    for processes, rows in ((1, 32), (4, 8)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        config = inspect_run_config(CLASSIFIER, words, files=False).config
        assert config is not None
        arguments = config.arguments
        assert (arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"]) == (rows, 1)
        assert config.to_dict()["training"]["per_device_train_batch_size"] == 64
        (said,) = [notice for notice in config.notices if "per_device" in notice]
        assert said.startswith(f"training.per_device_train_batch_size: {rows} of at most 64 are taken")


@pytest.mark.parametrize("value", ["hf_" + "Ab12" * 8, "https://user:pass@example.org/x"])
def test_a_secret_in_a_value_is_refused_and_not_repeated(value: str) -> None:
    said = problems_of(CLASSIFIER, f"training.run_name={value}")
    assert "training.run_name: holds a secret" in said
    assert value not in said
