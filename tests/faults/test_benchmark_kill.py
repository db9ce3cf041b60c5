"""A suite that is killed, interrupted, or locked out: its processes end with it, and the same command continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SUITE = f"""suite: faults
base: {ROOT}/configs/quickstart.yaml
run:
  model.name_or_path: {ROOT}/examples/quickstart/base
  dataset: {{path: {ROOT}/examples/quickstart/acceptability, max_train_samples: 48, max_eval_samples: 32}}
  training: {{num_train_epochs: 1, use_cpu: true, report_to: none}}
  results.formats: []
tasks: {{a: {{}}}}
seeds: [1, 2]
baselines: [majority]
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc and the parent-death signal")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(SUITE, encoding="utf-8")
    return tmp_path


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(folder: Path) -> Start:
    def open_benchmark(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "benchmark.py"), "--config", "s.yaml", "--output_dir", "out", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)

    return open_benchmark


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def training_child(pid: int) -> int | None:
    """Return the child process that became a run: it leads a session, and only the warm process starts runs."""
    for child in children_of(pid):
        words = Path(f"/proc/{child}/cmdline").read_bytes()
        is_new = b"train.py\0--config" in words.replace(b"child.py", b"")
        if is_new or (b"warm_start" in words and list(Path(f"/proc/{child}/fd").glob("1")) and is_log(child)):
            return child
    return None


def is_log(pid: int) -> bool:
    return str(Path(f"/proc/{pid}/fd/1").readlink()).endswith(".log")


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def status_of(folder: Path, name: str) -> str | None:
    path = folder / "out" / "runs" / f"{name}.state.json"
    return str(json.loads(path.read_text())["status"]) if path.exists() else None


def test_after_sigkill_its_run_ends_and_is_reported_as_interrupted(folder: Path, start: Start) -> None:
    long = "training.num_train_epochs=400"  # longer than a second suite needs to start, on a busy machine too
    suite = start(long)
    child = wait_for(lambda: training_child(suite.pid), suite)
    second = start(long)
    assert second.wait(timeout=60) == 2
    assert "out is in use by another suite" in second.communicate()[1]
    suite.kill()
    suite.communicate()
    wait_for(lambda: is_gone(child), seconds=5)
    assert status_of(folder, "a-lora-s1") == "running", "no process was left to record anything else"
    report = start("--report", "--json", long)
    out, err = report.communicate(timeout=60)
    assert report.returncode == 0, err
    runs = {run["name"]: run["status"] for run in json.loads(out)["runs"]}
    assert runs == {"a-lora-s1": "interrupted", "a-lora-s2": "missing"}


def test_ctrl_c_stops_the_runs_writes_the_reports_and_exits_with_130(folder: Path, start: Start) -> None:
    suite = start("--jobs", "2", "--json")
    wait_for(lambda: len(children_of(suite.pid)) == 2 and training_child(suite.pid), suite)
    children = children_of(suite.pid)
    suite.send_signal(signal.SIGINT)
    out, err = suite.communicate(timeout=60)
    assert suite.returncode == 130, err
    assert "Traceback" not in err
    assert all(map(is_gone, children))
    answer = json.loads(out)
    assert answer["status"] == "interrupted"
    assert {run["status"] for run in answer["runs"]} == {"interrupted"}
    assert all((folder / path).is_file() for path in answer["reports"].values())
    assert [status_of(folder, f"a-lora-s{seed}") for seed in (1, 2)] == ["interrupted", "interrupted"]


@pytest.mark.slow
def test_a_killed_and_continued_suite_equals_an_uninterrupted_one(folder: Path, start: Start) -> None:
    whole = start("--output_dir", "whole", "--json")
    out, err = whole.communicate(timeout=240)
    assert whole.returncode == 0, err
    expected = json.loads(out)

    suite = start()
    wait_for(lambda: status_of(folder, "a-lora-s1") == "success", suite)
    child = wait_for(lambda: training_child(suite.pid), suite)
    wait_for(lambda: (folder / "out/runs/a-lora-s2/run.yaml").exists(), suite)
    suite.kill()
    suite.communicate()
    wait_for(lambda: is_gone(child), seconds=5)
    kept = (folder / "out/runs/a-lora-s1/results.json").read_bytes()

    again = start("--json")
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert "a-lora-s1: done" in err
    assert (folder / "out/runs/a-lora-s1/results.json").read_bytes() == kept, "the finished run was not touched"
    assert [run["status"] for run in json.loads(out)["runs"]] == ["success", "success"]
    for run in expected["runs"]:
        one, other = (json.loads((folder / each / "runs" / run["name"] / "results.json").read_text())
                      for each in ("whole", "out"))  # fmt: skip
        assert one["metrics"] == other["metrics"]
        assert one["config_fingerprint"] == other["config_fingerprint"]


@pytest.mark.slow
def test_shards_run_in_parallel_and_their_reports_merge(folder: Path, start: Start) -> None:
    shards = [start("--shard", f"{part}/2", "--json") for part in (1, 2)]
    answers = [shard.communicate(timeout=240) for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], answers
    report = start("--report", "--json")
    runs = json.loads(report.communicate(timeout=60)[0])["runs"]
    assert [(run["name"], run["status"]) for run in runs] == [("a-lora-s1", "success"), ("a-lora-s2", "success")]
    assert len(list((folder / "out" / "logs").iterdir())) == 2


@pytest.mark.slow
def test_a_run_killed_after_a_checkpoint_continues_from_it(folder: Path, start: Start) -> None:
    words = ("--seeds", "1", "dataset.max_train_samples=1200", "training.num_train_epochs=6")
    whole = start(*words, "--output_dir", "whole", "--json")
    suite = start(*words)
    wait_for(lambda: list((folder / "out/runs/a-lora-s1").glob("checkpoint-*/trainer_state.json")), suite)
    suite.kill()
    suite.communicate()
    again = start(*words, "--json")
    err = again.communicate(timeout=240)[1]
    assert again.returncode == 0, err
    assert "--resume" in (folder / "out/logs/a-lora-s1.log").read_text()
    whole.communicate(timeout=240)
    assert whole.returncode == 0
    one, other = (json.loads((folder / each / "runs/a-lora-s1/results.json").read_text()) for each in ("whole", "out"))
    assert other["resumed_from_step"] > 0
    assert one["metrics"] == other["metrics"]
    assert one["best_metric"] == other["best_metric"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "processes"), [("torchrun --nproc_per_node 2", 2), ("accelerate launch --num_processes 1", 1)]
)
def test_runs_can_have_several_processes_each(launch: str, processes: int, folder: Path, start: Start) -> None:
    suite = start("--launch", launch, "--json")
    out, err = suite.communicate(timeout=280)
    logs = [path.read_text() for path in (folder / "out" / "logs").glob("*.log")]
    assert suite.returncode == 0, err + "".join(logs)
    assert [run["status"] for run in json.loads(out)["runs"]] == ["success", "success"]
    said = "1 process trains on cpu" if processes == 1 else "2 processes train, this one on cpu"
    assert all(said in log for log in logs)
