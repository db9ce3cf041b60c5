"""Checks the files of accelerate and DeepSpeed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.config.document import Document
from utils.config.error_messages import suggest
from utils.config.installed import installed_version, read_fields, source_of
from utils.config.section import list_choices
from utils.config.yaml_text import read_bounded, read_document
from utils.core.errors import ConfigError, Problem
from utils.core.json_files import NotJsonError, parse_json
from utils.run_config.load import Check

_DEEPSPEED_KEYS = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer", "scheduler",
    "fp16", "bf16", "bfloat16", "amp", "gradient_clipping", "prescale_gradients", "sparse_gradients",
    "gradient_predivide_factor", "communication_data_type", "zero_optimization", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "steps_per_print", "wall_clock_breakdown", "dump_state", "aio", "autotuning",
    "activation_checkpointing", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comms_logger",
    "data_types", "checkpoint", "memory_breakdown", "seq_parallel_communication_data_type", "compile",
    "tensor_parallel", "torch_autocast", "data_efficiency", "elasticity", "curriculum_learning", "comet",
    "monitor_config", "disable_allgather", "use_data_before_expert_parallelism", "sparse_attention", "nebula",
    "hybrid_engine", "compression_training", "eigenvalue", "pipeline", "progressive_layer_drop",
    "dataloader_drop_last", "graph_harvesting", "weight_quantization", "timers", "train_steps", "pld", "amp_enabled",
)  # fmt: skip


def check_accelerate(path: Path) -> list[Check]:
    """Check a file of `accelerate launch --config_file`."""
    readable, keys = Check("reads as YAML"), Check("keys and values")
    try:
        document = read_document(path)
    except ConfigError as error:
        readable.problems += error.problems
        return [readable]
    keys.problems += _check_accelerate_keys(document)
    return [readable, keys]


def check_deepspeed(path: Path) -> list[Check]:
    """Check a DeepSpeed JSON file."""
    readable, keys = Check("reads as JSON"), Check("keys and values")
    try:
        settings = parse_json(read_bounded(path))
    except ConfigError as error:
        readable.problems += error.problems
        return [readable]
    except OSError as error:
        readable.problems.append(Problem(f"cannot be read: {error}", place=str(path)))
        return [readable]
    except NotJsonError as error:
        message, _, line = str(error).partition(" at line ")
        place = f"{path}:{line.partition(',')[0]}" if line else str(path)
        message = message if message.startswith("not JSON") else f"cannot be read: {message}"
        readable.problems.append(Problem(message, place=place))
        return [readable]
    if not isinstance(settings, dict):
        readable.problems.append(Problem("the top level must be a mapping", place=str(path)))
        return [readable]
    keys.problems += _check_deepspeed_keys(settings, str(path))
    return [readable, keys]


def _check_accelerate_keys(document: Document) -> Iterator[Problem]:
    module = "accelerate.commands.config.config_args"
    known = {**read_fields(module, "BaseConfig"), **read_fields(module, "ClusterConfig")}
    for key in document.data:
        if key not in known:
            yield document.problem(key, f"unknown key{suggest(key, sorted(known))}")
    kind, kinds = document.get(("distributed_type",)), list_choices(known["distributed_type"].annotation)
    if kind is not None and str(kind) not in kinds:
        yield document.problem("distributed_type", f"{kind!r} is not allowed; use one of: {', '.join(kinds)}")
    options = _launch_options()
    for section in ("fsdp_config", "deepspeed_config"):
        for key in document.get((section,), None) or {} if options else ():
            if key not in options and f"fsdp_{key}" not in options:
                yield document.problem(f"{section}.{key}", f"unknown key{suggest(key, sorted(options))}")
    count = document.get(("num_processes",))
    if count is not None and (type(count) is not int or count < 1):
        yield document.problem("num_processes", f"{count!r} is not allowed; use a whole number from 1")


def _launch_options() -> frozenset[str]:
    """Read the options of the installed `accelerate launch`, which are the keys of its inner sections."""
    return frozenset(re.findall(r'"--(\w+)"', source_of("accelerate.commands.launch").read_text("utf-8")))


def _check_deepspeed_keys(settings: dict[str, Any], place: str) -> Iterator[Problem]:
    for key in settings:
        if key not in _DEEPSPEED_KEYS:
            yield Problem(f"unknown key{suggest(key, _DEEPSPEED_KEYS)}", key, place)
    zero = settings.get("zero_optimization", {})
    if isinstance(zero, dict) and installed_version("deepspeed") is not None:
        yield from _check_zero_keys(zero, place)
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage not in (None, 0, 1, 2, 3):
        yield Problem(f"{stage!r} is not allowed; use 0, 1, 2 or 3", "zero_optimization.stage", place)


def _check_zero_keys(zero: dict[str, Any], place: str) -> Iterator[Problem]:
    """Check `zero_optimization` against the installed DeepSpeed, which silently ignores unknown keys."""
    module = "deepspeed.runtime.zero"
    aliases = re.findall(r'alias="(\w+)"', source_of(f"{module}.config").read_text("utf-8"))
    known = {"": {*read_fields(f"{module}.config", "DeepSpeedZeroConfig"), *aliases}}
    known |= {
        f"offload_{part}": {*read_fields(f"{module}.offload_config", f"DeepSpeedZeroOffload{part.title()}Config")}
        for part in ("param", "optimizer")
    }
    for section, names in known.items():
        written = zero.get(section) if section else zero
        for key in written if isinstance(written, dict) else ():
            if key not in names:
                path = ".".join(filter(None, ("zero_optimization", section, key)))
                yield Problem(f"unknown key{suggest(key, sorted(names))}", path, place)
