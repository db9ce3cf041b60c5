"""The Slurm script starts a process for each task with its numbers, queues a saved run again, and resumes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

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
    """Give a function that runs the script as Slurm would, with a train.py that ends with a code."""
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


def test_every_task_has_its_numbers(submit, tmp_path: Path) -> None:
    code, said = submit(0)
    given = f"train.py --config configs/quickstart.yaml training.output_dir={tmp_path}/run task_name=a b"
    assert code == 0
    assert said == [f"rank {rank} local {rank} of 2 at first:21234: {given}" for rank in (0, 1)]


def test_a_saved_run_is_queued_again_and_resumed(submit, tmp_path: Path) -> None:
    code, said = submit(75)
    assert code == 75
    assert said[-1] == "requeue 61234"
    assert "--resume" not in said[0]
    (tmp_path / "run" / "checkpoint-7").mkdir(parents=True)
    code, said = submit(0)
    assert code == 0
    assert f"--resume training.output_dir={tmp_path}/run" in said[0]


def test_a_failed_run_is_not_queued_again(submit) -> None:
    code, said = submit(1)
    assert code == 1
    assert not any("requeue" in line for line in said)
