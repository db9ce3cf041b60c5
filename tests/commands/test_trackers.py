"""Real trackio and MLflow, on this machine: what a suite's runs are called there, and their tags."""

from __future__ import annotations

import json
import os
import site
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = f"""suite: tracked
base: {ROOT}/configs/quickstart.yaml
output_dir: out
run:
  model.name_or_path: {ROOT}/examples/quickstart/base
  dataset: {{path: {ROOT}/examples/quickstart/acceptability, max_train_samples: 48, max_eval_samples: 32}}
  training: {{num_train_epochs: 1, use_cpu: true, logging_steps: 1, report_to: [trackio, mlflow]}}
  results.formats: []
tasks: {{a: {{}}}}
methods: {{lora: {{peft.method: lora}}, head-only: {{peft.method: head-only}}}}
seeds: [7]
"""
READ = """import json, mlflow
from trackio.sqlite_storage import SQLiteStorage
runs = mlflow.search_runs(experiment_names=["tracked"], output_format="list")
tags = ("task", "method", "dataset", "seed")
found = {run.info.run_name: {"tags": {name: run.data.tags[name] for name in tags}, "loss": run.data.metrics["loss"]}
         for run in runs}
print(json.dumps({"mlflow": found, "trackio": sorted(SQLiteStorage.get_runs("tracked"))}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an interpreter that has both beside what this one has: MLflow wants other versions of some packages."""
    if given := os.environ.get("TRACKERS_PYTHON"):
        return Path(given)
    folder = tmp_path_factory.mktemp("trackers")
    venv.create(folder, with_pip=True)
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "shared.pth").write_text("\n".join(site.getsitepackages()))
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "trackio", "mlflow"]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"trackio and mlflow cannot be installed: {done.stderr[-300:]}")
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_are_called_and_tagged_as_they_are(python: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    environment = {
        **os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [python, ROOT / "benchmark.py", "--config", "s.yaml", "--jobs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    logs = "".join(path.read_text() for path in (tmp_path / "out" / "logs").glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    read = subprocess.run([python, "-c", READ], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    names = ["a-head-only-s7", "a-lora-s7"]
    assert found["trackio"] == names
    assert sorted(found["mlflow"]) == names
    assert found["mlflow"]["a-lora-s7"]["tags"] == {"task": "a", "method": "lora", "dataset": "custom", "seed": "7"}
    assert found["mlflow"]["a-head-only-s7"]["loss"] > 0
