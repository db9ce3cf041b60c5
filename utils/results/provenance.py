"""The provenance of results: versions, git commit, hardware, command line, data, start and end."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.installed import installed_version
from utils.core.cores import count_cores
from utils.core.project import ROOT, VERSION
from utils.core.secrets import mask_command
from utils.results.json_file import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROVENANCE_FILE = "provenance.json"

_PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "evaluate", "deepspeed",
    "tokenizers", "safetensors", "huggingface_hub", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow",
    "pydantic", "PyYAML", "openpyxl",
)  # fmt: skip


def collect_provenance(
    *,
    started: datetime,
    ended: datetime | None = None,
    data: Mapping[str, Any] | None = None,
    commits: Mapping[str, str | None] | None = None,
    command: Sequence[str] | None = None,
    project: Path = ROOT,
) -> dict[str, Any]:
    """Collect the facts needed to repeat a run, without those that are unknown.

    The machine's name is not recorded. The caller decides whether torch is imported: without it no GPU is listed. Times
    have a time zone. `data` holds fingerprints, `commits` the resolved commits of hub names. Secrets in the command
    line, by default this process's, are masked.
    """
    facts = {
        "started": format_time(started),
        "ended": format_time(ended) if ended else None,
        "command": shlex.join(mask_command(sys.argv if command is None else command)),
        "working_directory": str(Path.cwd()),
        "git": find_git_state(project),
        "versions": list_versions(),
        "platform": platform.platform(),
        "hardware": describe_hardware(),
        "data": dict(data or {}),
        "commits": {name: commit for name, commit in (commits or {}).items() if commit},
    }
    return {name: value for name, value in facts.items() if value not in (None, {})}


def write_provenance(folder: str | Path, provenance: Mapping[str, Any]) -> Path:
    """Write provenance.json atomically."""
    path = Path(folder) / PROVENANCE_FILE
    write_json(path, provenance)
    return path


def format_time(moment: datetime) -> str:
    """Format a time as ISO 8601 in UTC: `2026-01-31T12:00:00Z`."""
    assert moment.tzinfo is not None, f"got a time without zone: {moment}"
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def show_time(moment: str) -> str:
    """Format a time that `format_time` wrote, for people."""
    return moment.replace("T", " ").replace("Z", " UTC")


def show_hardware(provenance: Mapping[str, Any]) -> str:
    """Describe the machine in one line."""
    return ", ".join(f"{key} {value}" for key, value in (provenance.get("hardware") or {}).items())


def list_versions() -> dict[str, str]:
    """Return the installed versions of Python and of the libraries that affect results."""
    versions = {name: version for name in _PACKAGES if (version := installed_version(name))}
    return {"python": platform.python_version(), "lora-ns": VERSION, **versions}


def find_git_state(project: Path) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether tracked files differ from it; None if it is not a checkout."""
    top = _run_git(project, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != project.resolve():
        return None
    commit = _run_git(project, "rev-parse", "HEAD")
    changes = _run_git(project, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)} if commit else None


def describe_hardware() -> dict[str, Any]:
    """Describe processor, memory (in units of 1024**3 bytes) and, if torch is loaded, the GPUs."""
    import psutil

    gpus = _list_gpus()
    hardware = {
        "cpu": _cpu_model(),
        "cpu_cores": psutil.cpu_count(logical=False),
        "cpu_threads": count_cores(),
        "ram_gb": round(psutil.virtual_memory().total / 1024**3, 1),
        "gpus": gpus,
        "gpu_driver": _gpu_driver() if gpus else None,
        "cuda": getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None),
    }
    return {name: value for name, value in hardware.items() if value not in (None, [])}


def _run_git(folder: Path, *words: str) -> str | None:
    # Without this option even a status would write to .git/index, and block the user's own git.
    return _run("git", "--no-optional-locks", "-C", str(folder), *words)


def _run(program: str, *words: str) -> str | None:
    """Run a program and return its output; None if it is missing, fails or hangs."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603  our own words
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine() or None)


def _list_gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _gpu_driver() -> str | None:
    answer = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.splitlines()[0].strip() if answer else None
