"""The Slurm script starts one process per task with its rank, requeues a saved run, and resumes it.

Also a suite as an array of a real Slurm, which is installed and started here where root can.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "slurm" / "train_multi_node.sbatch"
PROGRAMS = {
    "srun": """shift  # its only option
code=0
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" || code=$?; done
exit $code""",
    "scontrol": """if [ "$1" = show ]; then printf 'first\\nsecond\\n'; else echo "$@" >> "$SAID"; fi""",
    "python": """echo "rank $RANK local $LOCAL_RANK of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT: $*" >> "$SAID"
exit $CODE""",
}


@pytest.fixture
def submit(tmp_path: Path):
    """Return a function that runs the script as Slurm would, with a train.py that exits with a given code."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)

    def run(code: int) -> tuple[int, list[str]]:
        said = tmp_path / "said"
        said.unlink(missing_ok=True)
        environment = {
            **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": "python", "SAID": str(said),
            "CODE": str(code), "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "61234", "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NODELIST": "n[1-2]",
        }  # fmt: skip
        words = ["bash", SCRIPT, "configs/quickstart.yaml", tmp_path / "run", "task_name=a b"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert said.is_file(), done.stderr
        return done.returncode, said.read_text().splitlines()

    return run


def test_every_task_has_its_rank(submit, tmp_path: Path) -> None:
    code, said = submit(0)
    given = f"train.py --config configs/quickstart.yaml training.output_dir={tmp_path}/run task_name=a b"
    assert code == 0
    assert said == [f"rank {rank} local {rank} of 2 at first:21234: {given}" for rank in (0, 1)]


def test_a_saved_run_is_requeued_and_resumed(submit, tmp_path: Path) -> None:
    code, said = submit(75)
    assert code == 75
    assert said[-1] == "requeue 61234"
    assert "--resume" not in said[0]
    (tmp_path / "run" / "checkpoint-7").mkdir(parents=True)
    code, said = submit(0)
    assert code == 0
    assert f"--resume training.output_dir={tmp_path}/run" in said[0]


def test_a_failed_run_is_not_requeued(submit) -> None:
    code, said = submit(1)
    assert code == 1
    assert not any("requeue" in line for line in said)


SUITE = f"""suite: array
base: {ROOT}/configs/quickstart.yaml
run:
  model.name_or_path: {ROOT}/examples/quickstart/base
  dataset: {{path: {ROOT}/examples/quickstart/acceptability, max_train_samples: 1200, max_eval_samples: 32}}
  training: {{num_train_epochs: 6, use_cpu: true, report_to: none}}
  results.formats: []
tasks: {{a: {{}}}}
methods: {{lora: {{peft.method: lora}}, head-only: {{peft.method: head-only}}}}
launcher: {{name: slurm, time: 0:20:00, cpus: 1, environment: {{OMP_NUM_THREADS: "1"}}}}
"""


def benchmark(folder: Path, *words: str) -> Any:
    command = [sys.executable, ROOT / "benchmark.py", "--config", "s.yaml", "--json", *words]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_suite_as_an_array_of_a_real_slurm(tmp_path: Path) -> None:
    """One job is killed and requeued; the results equal those of a local run."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("only root on Debian can install and start Slurm")
    started = subprocess.run([ROOT / "scripts" / "start_slurm.sh"], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"Slurm cannot be started: {started.stderr.strip()[-200:]}")
    (tmp_path / "s.yaml").write_text(SUITE)
    job = benchmark(tmp_path, "--output_dir", "array")["job"]
    deadline = time.monotonic() + 900
    runs = tmp_path / "array" / "runs"
    while not list(runs.glob("a-lora-s42/checkpoint-*/complete.json")):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    subprocess.run(["scancel", f"{job}_1"], check=True)
    while {run["status"] for run in benchmark(tmp_path, "--output_dir", "array", "--status")["runs"]} != {"done"}:
        assert time.monotonic() < deadline
        time.sleep(3)
    log = (tmp_path / "array" / "jobs" / f"{job}_1.log").read_text()
    assert "CANCELLED" in log
    assert log.count("a-lora-s42: started") == 2
    assert "--resume" in (tmp_path / "array" / "logs" / "a-lora-s42.log").read_text()
    benchmark(tmp_path, "--output_dir", "here", "--launcher", "local")
    benchmark(tmp_path, "--output_dir", "array", "--report")
    tables = [json.loads((tmp_path / name / "results.json").read_text())["rows"] for name in ("array", "here")]
    scores = [[(row["task"], row["method"], row["figures"]["best"]) for row in rows] for rows in tables]
    assert scores[0] == scores[1]
    assert benchmark(tmp_path, "--output_dir", "array")["runs"] == [], "nothing is missing"
