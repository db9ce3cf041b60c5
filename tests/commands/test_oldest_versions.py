"""The oldest libraries that pyproject.toml allows pass the fast tests of the commands and the invariants.

The environment is built from a package index, without which the test is skipped; LORA_NS_OLDEST_PYTHON names an
existing one. torch is the pinned one: no package index has older CPU builds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
BOUNDED = ("transformers", "trl", "peft", "datasets", "accelerate", "evaluate", "bitsandbytes")
NEEDED_BY_TESTS = ("pytest", "pytest-timeout", "jsonschema", "math-verify", "antlr4-python3-runtime==4.11.0")
NO_NETWORK = re.compile(
    r"connection|timed out|temporary failure|network is unreachable|No matching distribution found", re.I
)


def _read_requirements() -> list[str]:
    """Return the requirements to install: lower bounds of the varied libraries, any version of the others."""
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = package["optional-dependencies"]
    declared = [*package["dependencies"], *extras["quantization"], *extras["chinese"]]
    (torch,) = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    oldest = {
        name: f"{name}=={bound}"
        for name, bound in (each.split(",")[0].split(">=") for each in declared if ">=" in each)
    }
    others = [each for each in declared if re.split(r"[><=]", each)[0] not in (*BOUNDED, "torch")]
    return [torch, *(oldest[name] for name in BOUNDED), *others, *NEEDED_BY_TESTS]


def _make_environment(folder: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    words = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *_read_requirements()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode and NO_NETWORK.search(done.stderr):
        pytest.skip(f"no package index to install from: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return python


def test_the_bounds_are_full_versions() -> None:
    versions = [each for each in _read_requirements() if "==" in each]
    assert [each.split("==")[0] for each in versions] == ["torch", *BOUNDED, "antlr4-python3-runtime"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_oldest_libraries_pass(tmp_path: Path) -> None:
    python = os.environ.get("LORA_NS_OLDEST_PYTHON") or _make_environment(tmp_path / "env")
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/commands", "tests/invariants"]
    # Runs in this process leave trackers' settings in its environment.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MLFLOW_"))}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
