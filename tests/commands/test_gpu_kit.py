"""A small CPU run of what `make gpu` runs on a GPU, so that it is known to work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_every_case_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    words = [sys.executable, "perf/gpu.py", "--small", "--output", str(output)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads(output.read_text("utf-8"))["cases"]
    assert {each["method"] for each in cases} == {"lora", "qlora", "qst", "full", "dpo"}
    assert [each for each in cases if "error" in each] == []
    losses = {}
    for each in cases:
        if each["kind"] in ("ours", "plain"):
            losses.setdefault(each["method"], []).append(each["loss"])
    assert losses["lora"] == pytest.approx([losses["lora"][0]] * 2, rel=1e-2)
    assert len(done.stdout.strip().splitlines()) == len(cases) + 2


def test_the_comparison_with_the_cpu_runs() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
    environment = {**os.environ, "LORA_NS_GPU_TESTS": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
