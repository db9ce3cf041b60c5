"""The choice of GPUs by --gpu, before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import which

from utils.core.errors import UserError


def select_gpus(choice: str | None, script: str, words: Sequence[str]) -> None:
    """Make only the chosen GPUs visible; with more than one, relaunch the command through torchrun.

    Must run before torch is imported. A process started by a launcher leaves the choice to it. `choice` is the value of
    `--gpu`, `0` or `0,1`; None leaves the environment unchanged.

    Raises:
        UserError: An index is not a number, or there is no such GPU.
    """
    if choice is None or "LOCAL_RANK" in os.environ:
        return
    indices = choice.replace(" ", "").split(",")
    present = list_gpus()
    for index in indices:
        if not index.isdecimal():
            raise UserError(f"--gpu {choice}: {index!r} is not a GPU index; write --gpu 0 or --gpu 0,1")
        if int(index) >= len(present):
            has = f"GPUs 0 to {len(present) - 1}" if present else "no NVIDIA GPU"
            raise UserError(f"--gpu {choice}: there is no GPU {index}; this machine has {has}")
    if len(set(indices)) < len(indices):
        raise UserError(f"--gpu {choice}: one GPU is named twice")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(present[int(index)] for index in indices)
    if len(indices) > 1:
        rest = _without_option(words, "--gpu")
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={len(indices)}", script]
        os.execv(sys.executable, [sys.executable, *launch, *rest])  # noqa: S606  # our own interpreter


def list_gpus() -> list[str]:
    """Return the GPUs this process may use: those made visible by a scheduler, or all of the machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(_count_gpus())]
    return [name.strip() for name in visible.split(",") if name.strip()]


def _count_gpus() -> int:
    if which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)  # noqa: S607  it is wherever the driver put it on PATH
        return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _without_option(words: Sequence[str], option: str) -> list[str]:
    rest, skip = [], False
    for word in words:
        if skip or word.startswith(f"{option}="):
            skip = False
        elif word == option:
            skip = True
        else:
            rest.append(word)
    return rest
