"""Results of the first process reach all processes, and so do its failures: none waits forever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.evaluation.processes import run_on_first

ROOT = Path(__file__).parents[3]
PROCESS = """
import os, sys
from pathlib import Path

import torch.distributed as dist

from utils.core.errors import UserError
from utils.evaluation.processes import describe_failure, run_on_first

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)


def work():
    (folder / "done.txt").open("a").write(f"{rank}")
    return {"made by": rank}


def fail():
    raise OSError(28, "No space left on device")


said = [str(run_on_first(work))]
try:
    run_on_first(fail)
except (OSError, UserError) as error:
    said.append(describe_failure(error))
(folder / f"{rank}.txt").write_text("; ".join(said))
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


def test_two_processes_share_results_and_failures(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PROCESS]
    started = [subprocess.Popen([*words, str(rank), str(tmp_path)], cwd=ROOT, env=environment) for rank in range(2)]
    assert [process.wait(100) for process in started] == [0, 0]
    failure = "OSError: [Errno 28] No space left on device"
    assert (tmp_path / "done.txt").read_text() == "0"
    assert (tmp_path / "0.txt").read_text() == f"{{'made by': 0}}; {failure}"
    assert (tmp_path / "1.txt").read_text() == f"{{'made by': 0}}; in another process: {failure}"


def test_a_single_process_just_calls_the_function() -> None:
    assert run_on_first(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        run_on_first(lambda: 1 / 0)
