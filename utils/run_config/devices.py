"""The capabilities of this machine's devices, determined without importing torch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from utils.cli.gpus import list_gpus
from utils.config.installed import is_installed, source_of
from utils.core.errors import UserError

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of x86 and ARM processors."""


@dataclass(frozen=True)
class Machine:
    """Capabilities of a machine's devices."""

    gpu: bool
    """Whether torch finds an accelerator."""
    bf16: bool
    """Whether it computes in bfloat16."""
    tf32: bool
    """Whether it computes in TF32 (NVIDIA, from Ampere on)."""

    @classmethod
    @cache
    def look(cls) -> Machine:
        """Inspect the machine without importing torch; where other devices than NVIDIA's are possible, assume them."""
        if _may_have_other_devices():
            return cls(gpu=True, bf16=True, tf32=True)
        has_gpu = bool(list_gpus()) and not _is_cpu_build()
        is_new = has_gpu and max(_compute_capabilities(), default=8.0) >= 8
        return cls(gpu=has_gpu, bf16=is_new, tf32=is_new)


def choose_bf16(arguments: Mapping[str, Any]) -> dict[str, bool]:
    """Return the arguments that `training.bf16: auto` stands for on this machine."""
    machine = Machine.look()
    if arguments.get("fp16"):
        return {"bf16": False}
    if not machine.gpu or arguments.get("use_cpu"):
        chosen = bool(_BF16_FLAGS & _cpu_flags())
        return {"bf16": chosen, "use_cpu": True} if chosen else {"bf16": False}
    return {"bf16": machine.bf16}


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return set()
    return set(next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split())


def _may_have_other_devices() -> bool:
    """Return whether torch may find devices that nvidia-smi does not list: Apple's, AMD's, or those of a plug-in."""
    plug_ins = ("torch_npu", "torch_mlu", "torch_musa", "torch_xla", "habana_frameworks")
    other = re.search(r"^(hip|xpu)\b.*= '", _torch_build(), re.MULTILINE) is not None
    return sys.platform != "linux" or Path("/dev/dxg").exists() or other or any(map(is_installed, plug_ins))


def _is_cpu_build() -> bool:
    return re.search(r"^cuda\b.*= None$", _torch_build(), re.MULTILINE) is not None


def _torch_build() -> str:
    """Read what the installed torch was built for, from its version file."""
    try:
        return source_of("torch.version").read_text("utf-8")
    except (UserError, OSError):
        return ""


def _compute_capabilities() -> list[float]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  fixed words
    return [float(line) for line in listed.stdout.split() if re.fullmatch(r"\d+\.\d+", line)]
