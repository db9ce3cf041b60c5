"""How a run was launched, by the launcher's variables and the file, and the batch size of each process."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import UserError
from utils.trainer import launch
from utils.trainer.launch import division_problem, split_batch


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE",
                 "ACCELERATE_DEEPSPEED_ZERO_STAGE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def test_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.count_launched() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launch.count_launched() == 4


@pytest.mark.parametrize("path", sorted(launch.SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_file_is_found_by_its_name(path: Path) -> None:
    assert launch.resolve_deepspeed(path.stem) == str(path) == launch.resolve_deepspeed(str(path))
    assert launch.deepspeed_problem(path.stem) is None
    stage = json.loads(path.read_text())["zero_optimization"]["stage"]
    assert launch.find_sharding({"deepspeed": path.stem}) == ("ZeRO-3" if stage == 3 else None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "did you mean zero" in str(launch.deepspeed_problem("zero5"))
    assert launch.deepspeed_problem(None) is launch.deepspeed_problem({"zero_optimization": {}}) is None
    (tmp_path / "bad.json").write_text("[1]")
    assert "must hold one JSON object" in str(launch.deepspeed_problem(str(tmp_path / "bad.json")))


@pytest.mark.parametrize(
    ("arguments", "environment", "sharding"),
    [
        ({}, {}, None),
        ({"fsdp": "full_shard"}, {}, "FSDP"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({}, {"ACCELERATE_USE_FSDP": "false"}, None),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, {}, "ZeRO-3"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, {}, None),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "true"}, None),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "ZeRO-3"),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "zero3"}, "ZeRO-3"),
        ({}, {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, None),
    ],
)
def test_which_launchers_shard_weights(
    arguments: dict[str, Any], environment: dict[str, str], sharding: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.find_sharding(arguments) == sharding
    assert launch.is_sharded(arguments) == (sharding is not None)


def test_which_launchers_build_the_optimizer() -> None:
    assert launch.names_optimizer({"deepspeed": "zero3_offload"})
    assert not launch.names_optimizer({"deepspeed": "zero2"})
    assert not launch.names_optimizer({})


def test_a_process_without_a_launcher_is_a_single_process(monkeypatch):
    """DeepSpeed would look for MPI; variables set by a launcher are kept."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    launch.stand_alone()
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch.stand_alone()
    assert os.environ["WORLD_SIZE"] == "2"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("python /bin/accelerate launch --num_processes 2 --cpu train.py --config a.yaml", 2),
        ("python /bin/accelerate launch --cpu --num-processes=3 train.py", 3),
        ("python -m accelerate.commands.launch --num_processes 4 train.py", 4),
        ("python /bin/accelerate launch --config_file FILE train.py --num_processes 9", 5),
        ("python /bin/accelerate launch --config_file=FILE --num_processes 1 train.py", 1),
        ("python /bin/accelerate launch train.py --num_processes 9", 1),
        ("bash -c launch", 1),
        ("/bin/bash", 1),
    ],
)
def test_number_of_processes_requested_from_accelerate(words, asked, tmp_path, monkeypatch):
    """accelerate's own arguments end at the script; its file counts where they say nothing."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    (tmp_path / "cpu.yaml").write_text("distributed_type: 'NO'\nnum_processes: 5\n")
    assert launch.count_asked(words.replace("FILE", str(tmp_path / "cpu.yaml")).split()) == asked


@pytest.mark.parametrize(
    ("total", "ceiling", "processes", "rows", "steps"),
    [
        (64, 16, 1, 16, 4), (64, 16, 2, 16, 2), (64, 8, 8, 8, 1), (24, 4, 3, 4, 2),
        # fewer rows than the processes could take at once: all of them in one batch
        (32, 64, 1, 32, 1), (8, 16, 4, 2, 1), (7, 16, 1, 7, 1),
        # the next smaller size that divides
        (96, 20, 4, 12, 2), (20, 8, 1, 5, 4),
        # one file on one machine of 8 GPUs, and on four
        (128, 16, 8, 16, 1), (128, 16, 32, 4, 1),
    ],
)  # fmt: skip
def test_a_divisible_global_batch_size(total: int, ceiling: int, processes: int, rows: int, steps: int) -> None:
    assert division_problem(total, ceiling, processes) is None
    assert split_batch(total, ceiling, processes) == (rows, steps)
    assert steps * rows * processes == total
    assert rows <= ceiling


@pytest.mark.parametrize(
    ("total", "ceiling", "processes", "sentence"),
    [
        (64, 16, 3, "64 rows do not divide into 3 processes of 16 rows; the nearest that do: 48 or 96"),
        (2, 4, 4, "2 rows do not divide into 4 processes of 4 rows; the nearest that do: 16"),
        (62, 16, 1, "62 rows do not divide into batches of 16 rows; the nearest that do: 48 or 64"),
    ],
)
def test_an_indivisible_global_batch_size_is_refused(total: int, ceiling: int, processes: int, sentence: str) -> None:
    assert division_problem(total, ceiling, processes) == sentence
    for size in (int(word) for word in sentence.partition("do: ")[2].split(" or ")):
        assert division_problem(size, ceiling, processes) is None


@pytest.mark.parametrize(
    ("arguments", "asked", "said"),
    [
        ({}, "bf16", "has neither .*--mixed_precision no, or set training.bf16: true"),
        ({"bf16": True}, "fp16", "has training.bf16: true: launch with --mixed_precision bf16, or set training.fp16"),
        ({}, "fp8", "--mixed_precision no$"),
        ({"bf16": True}, "bf16", None),
        ({"fp16": True}, "no", None),
        ({}, None, None),
    ],
)
def test_launcher_and_run_must_agree_on_mixed_precision(arguments, asked, said, monkeypatch):
    """accelerate silently applied its own: a run in bfloat16 was recorded as one in float32."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if asked is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    with pytest.raises(UserError, match=said) if said else nullcontext():
        launch.require_same_precision(arguments)


@pytest.mark.parametrize(("arguments", "asked"), [({}, "INDUCTOR"), ({"torch_compile": True}, "INDUCTOR"), ({}, "NO")])
def test_a_compiler_that_only_the_launcher_names_is_refused(arguments, asked, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", asked)
    refused = asked != "NO" and not arguments
    with pytest.raises(UserError, match="dynamo_backend inductor") if refused else nullcontext():
        launch.require_same_compiler(arguments)
