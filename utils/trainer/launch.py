"""How a run was launched: its processes, their share of a batch, DeepSpeed's file, and sharding of the weights.

Read from the environment set by torchrun, accelerate and DeepSpeed, and from the `training:` section, without importing
an ML library.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from utils.config.error_messages import suggest
from utils.config.sections.training import DEFAULT_ROWS
from utils.config.yaml_text import read_document
from utils.core.cache_folder import hub_home
from utils.core.errors import UserError
from utils.core.json_files import find_object
from utils.core.project import ROOT

SHIPPED = ROOT / "configs" / "deepspeed"
"""Folder of the shipped files: `training.deepspeed: zero2` names one without `.json`."""

_YES = ("1", "true", "yes", "on", "y", "t")


def count_launched() -> int:
    """Count the processes started together on all machines; 1 if no launcher has set WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def count_step_rows(arguments: Mapping[str, Any]) -> int:
    """Count the rows of an optimizer step over all processes."""
    at_once = int(arguments.get("per_device_train_batch_size", DEFAULT_ROWS)) * count_launched()
    return at_once * int(arguments.get("gradient_accumulation_steps", 1))


def require_launched() -> None:
    """Check that `accelerate launch` has started as many processes as it was asked for.

    Without a GPU, or with `--cpu`, it silently starts one. It is recognised by the command line of this process's
    parent.

    Raises:
        UserError: It was asked for more than it started.
    """
    if "WORLD_SIZE" in os.environ:
        return
    import psutil

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return
    if (asked := count_asked(words)) > 1:
        raise UserError(
            f"accelerate launch was asked for {asked} processes and has started one, as it does on CPUs and by a file "
            f"of distributed_type 'NO': use torchrun --nproc_per_node {asked} train.py ..., or --num_processes 1"
        )


def require_same_precision(arguments: Mapping[str, Any]) -> None:
    """Check that the launcher asks for no other mixed precision than the run.

    accelerate would apply its own where the run has none, and the record would not show it.

    Raises:
        UserError: It asks for another one.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
    own = next((name for name in ("bf16", "fp16") if arguments.get(name)), "no")
    if asked not in ("no", own):
        has = f"training.{own}: true" if own != "no" else "neither training.bf16 nor training.fp16"
        raise UserError(
            f"accelerate launch asks for mixed_precision {asked}, and the run has {has}: launch with --mixed_precision "
            f"{own}" + (f", or set training.{asked}: true" if asked in ("bf16", "fp16") else "")
        )


def require_same_compiler(arguments: Mapping[str, Any]) -> None:
    """Check that the launcher asks for no compiler that the run does not name; the record would not show it.

    Raises:
        UserError: It asks for one.
    """
    asked = (os.environ.get("ACCELERATE_DYNAMO_BACKEND") or "no").lower()
    if asked != "no" and not arguments.get("torch_compile"):
        raise UserError(
            f"accelerate launch asks for dynamo_backend {asked}, and the run has no training.torch_compile: launch "
            f"with --dynamo_backend no, or set training.torch_compile: true and training.torch_compile_backend: {asked}"
        )


def count_asked(words: Sequence[str]) -> int:
    """Count the processes that an `accelerate launch` command line asks for; 1 for other commands or no number."""
    if "launch" not in words[:4] and not any("accelerate.commands.launch" in word for word in words[:4]):
        return 1
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--num_processes", "--num-processes")
    parser.add_argument("--config_file", "--config-file")
    own = [*takewhile(lambda word: not word.endswith(".py"), words[2:])]
    given = parser.parse_known_args(own)[0]
    file = Path(given.config_file or hub_home() / "accelerate" / "default_config.yaml").expanduser()
    asked = given.num_processes
    if asked is None and file.is_file():
        asked = read_document(file).data.get("num_processes")
    return int(asked) if str(asked).isdecimal() else 1


def find_deepspeed_file(value: str) -> Path | None:
    """Find the file that `training.deepspeed` names: a shipped one by its name, else a path; None: there is none."""
    for path in (SHIPPED / f"{value}.json", Path(value).expanduser()):
        if path.is_file():
            return path
    return None


def deepspeed_problem(value: Any) -> str | None:
    """Describe what is wrong with `training.deepspeed`; None: its settings can be read."""
    if not isinstance(value, str):
        return None
    names = sorted(path.stem for path in SHIPPED.glob("*.json"))
    if find_deepspeed_file(value) is None:
        return f"no file {value}, and none of that name is shipped{suggest(value, names)}"
    if _read_deepspeed(value) is None:
        return f"{value} is not a DeepSpeed file: it must hold one JSON object; validate_config.py says where it fails"
    return None


def resolve_deepspeed(value: Any) -> Any:
    """Return the path of a shipped file for its name, for TrainingArguments; other values are unchanged."""
    found = find_deepspeed_file(value) if isinstance(value, str) else None
    return value if found is None else str(found)


def find_launcher_file() -> None:
    """Resolve accelerate's DeepSpeed file from the project's folder if it is not found in the working directory."""
    name = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
    file = os.environ.get(name, "none")
    shipped = ROOT / file
    if file != "none" and not Path(file).is_file() and shipped.is_file():
        os.environ[name] = str(shipped)


def stand_alone() -> None:
    """Tell DeepSpeed that this process is the only one if no launcher has: it would look for MPI."""
    if "RANK" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def find_sharding(arguments: dict[str, Any]) -> str | None:
    """Return what shards the weights over processes, `FSDP` or `ZeRO-3`, from the arguments of TrainingArguments.

    None: each process holds all of them.
    """
    if arguments.get("fsdp") or is_on("ACCELERATE_USE_FSDP"):
        return "FSDP"
    return "ZeRO-3" if _find_stage(arguments) == 3 else None


def is_sharded(arguments: dict[str, Any]) -> bool:
    """Return whether no process holds all weights."""
    return find_sharding(arguments) is not None


def names_optimizer(arguments: dict[str, Any]) -> bool:
    """Return whether a DeepSpeed file builds the optimizer instead of `training.optim`."""
    return "optimizer" in (_read_deepspeed(arguments.get("deepspeed")) or {})


def _find_stage(arguments: dict[str, Any]) -> int:
    value: Any = arguments.get("deepspeed")
    if value is None and is_on("ACCELERATE_USE_DEEPSPEED"):
        value = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        if value == "none":
            given = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
            return int(given) if given.isdecimal() else 0
    zero = (_read_deepspeed(value) or {}).get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    return stage if isinstance(stage, int) else 0


def _read_deepspeed(value: Any) -> dict[str, Any] | None:
    """Read DeepSpeed's settings, from a mapping or the name of a file; None without any."""
    if isinstance(value, dict):
        return value
    path = find_deepspeed_file(value) if isinstance(value, str) else None
    return (find_object(path) or None) if path else None


def is_on(name: str) -> bool:
    """Return whether a launcher switched something on by an environment variable."""
    return os.environ.get(name, "").lower() in _YES


def split_batch(total: int, ceiling: int, processes: int) -> tuple[int, int] | None:
    """Split the rows of a step into the fewest batches of equal size that each process can hold.

    Args:
        total: Number of rows of a step, over all processes.
        ceiling: Maximum number of rows per batch and process.
        processes: Number of processes.

    Returns:
        Rows per batch, and batches that each process accumulates per step; None if nothing divides evenly, or only
        batches of half the ceiling or fewer, which would be needlessly slow.
    """
    each, rest = divmod(total, processes)
    if rest or not each:
        return None
    rows = next(size for size in range(min(ceiling, each), 0, -1) if each % size == 0)
    return (rows, each // rows) if 2 * rows > min(ceiling, each) else None


def division_problem(total: int, ceiling: int, processes: int) -> str | None:
    """Return the message that a global batch cannot be split evenly, with the nearest sizes that can; None: it can."""
    if split_batch(total, ceiling, processes) is not None:
        return None
    at_once = ceiling * processes
    below, above = total // at_once * at_once, (total // at_once + 1) * at_once
    sizes = f"{below} or {above}" if below else f"{above}"
    split = f"{processes} processes of {ceiling} rows" if processes > 1 else f"batches of {ceiling} rows"
    return f"{total} rows do not divide into {split}; the nearest that do: {sizes}"
