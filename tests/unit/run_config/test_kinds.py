"""The kind of a file is detected; accelerate's and DeepSpeed's files are checked by their own rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.config.yaml_text import dump_yaml
from utils.run_config.kinds import find_kind
from utils.run_config.launcher_files import check_accelerate, check_deepspeed
from utils.run_config.load import inspect_run_config

# As `accelerate config` writes it for FSDP on one machine.
ACCELERATE: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE", "debug": False, "distributed_type": "FSDP", "downcast_bf16": "no",
    "enable_cpu_affinity": False, "fsdp_config": {"fsdp_version": 2, "fsdp_offload_params": False}, "machine_rank": 0,
    "main_training_function": "main", "mixed_precision": "bf16", "num_machines": 1, "num_processes": 8,
    "rdzv_backend": "static", "same_network": True, "tpu_env": [], "tpu_use_cluster": False, "tpu_use_sudo": False,
    "use_cpu": False,
}  # fmt: skip
DEEPSPEED: dict[str, Any] = {
    "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 2, "overlap_comm": True}, "gradient_clipping": "auto",
    "gradient_accumulation_steps": "auto", "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.yaml", dump_yaml(ACCELERATE), "accelerate"),
        ("a.yml", "distributed_type: MULTI_GPU\n", "accelerate"),
        ("a.yaml", "task_type: SEQ_CLS\nmodel: {}\n", "run"),
        ("a.yaml", "task_type: SEQ_CLS\nmodel: {}\nnum_processes: 2\n", "run"),
        ("a.yaml", "[", "run"),
        ("a.yaml", "", "run"),
        ("a.json", "{}", "deepspeed"),
        ("a.yaml", "suite: x\n", "suite"),
        ("a.yaml", "base: run.yaml\ntasks: {rte: {}}\nmethods: {lora: {}}\n", "suite"),
    ],
)
def test_find_kind(name: str, text: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert find_kind(file) == kind


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tasks: {rte: {}}\nseeds: [1]\n", "a suite, not a run; start it by python benchmark.py --config FILE"),
        (
            dump_yaml(ACCELERATE),
            "settings of accelerate, not a run; start a run by accelerate launch --config_f",
        ),
        (
            "zero_optimization: {stage: 2}\n",
            "settings of DeepSpeed, not a run; name them in a run's file by trai",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    (problem,) = inspect_run_config(file).problems
    assert sentence in str(problem).replace(str(file), "FILE")


def problems_of(checks: list[Any], file: Path) -> list[str]:
    return [str(problem).replace(str(file), "FILE") for check in checks for problem in check.problems]


def test_a_valid_accelerate_file_passes(tmp_path: Path) -> None:
    from accelerate import DistributedType

    file = tmp_path / "a.yaml"
    for kind in DistributedType:
        file.write_text(dump_yaml(ACCELERATE | {"distributed_type": kind.value}))
        assert problems_of(check_accelerate(file), file) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_procesess": 2}, "num_procesess: unknown key; did you mean num_processes?"),
        ({"distributed_type": "DDP"}, "distributed_type: 'DDP' is not allowed; use one of: NO, MULTI_CPU, MULTI_GPU"),
        ({"distributed_type": "TP"}, "distributed_type: 'TP' is not allowed"),
        ({"num_processes": 0}, "num_processes: 0 is not allowed; use a whole number from 1"),
        ({"num_processes": "two"}, "num_processes: 'two' is not allowed"),
        ({"num_processes": True}, "num_processes: True is not allowed"),
        ({"fsdp_config": {"fsdp_versoin": 2}}, "fsdp_config.fsdp_versoin: unknown key; did you mean fsdp_version?"),
        ({"deepspeed_config": {"zero_stag": 2}}, "deepspeed_config.zero_stag: unknown key; did you mean zero_stage?"),
    ],
)
def test_mistakes_in_an_accelerate_file(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(dump_yaml(ACCELERATE | change))
    (problem,) = problems_of(check_accelerate(file), file)
    assert sentence in problem
    assert problem.startswith("FILE:")


def test_an_unreadable_accelerate_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("num_processes: [\n")
    (check,) = check_accelerate(file)
    assert "FILE:2" in problems_of([check], file)[0]


def test_a_valid_deepspeed_file_passes(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps(DEEPSPEED))
    assert problems_of(check_deepspeed(file), file) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"zero_optimizatoin": {}}', "FILE  zero_optimizatoin: unknown key; did you mean zero_optimization?"),
        ('{"zero_optimization": {"stage": 4}}', "FILE  zero_optimization.stage: 4 is not allowed; use 0, 1, 2 or 3"),
        ('{"zero_optimization": {"stage": "2"}}', "FILE  zero_optimization.stage: '2' is not allowed"),
        ('{"zero_optimization": {"stage": 3, "overlap_com": true}}', "zero_optimization.overlap_com: unknown key"),
        (
            '{"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}}',
            "FILE  zero_optimization.offload_param.devise: unknown key; did you mean device?",
        ),
        ('{"bf16":\n\n', "FILE:3  not JSON: Expecting value"),
        ("", "FILE:1  not JSON: Expecting value"),
        ("[1]", "FILE  the top level must be a mapping"),
        ("\xff", "cannot be read"),
    ],
)
def test_mistakes_in_a_deepspeed_file(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_bytes(text.encode("latin-1"))
    (problem,) = problems_of(check_deepspeed(file), file)
    assert sentence in problem
