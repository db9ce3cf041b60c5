"""Real trackers on this machine: names, tags, settings and final scores of a suite's runs."""

from __future__ import annotations

import json
import os
import site
import subprocess
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SUITE = f"""suite: tracked
base: {ROOT}/configs/quickstart.yaml
output_dir: out
run:
  model.name_or_path: {ROOT}/examples/quickstart/base
  dataset: {{path: {ROOT}/examples/quickstart/acceptability, max_train_samples: 48, max_eval_samples: 32}}
  training:
    {{num_train_epochs: 1, use_cpu: true, logging_steps: 1, report_to: [trackio, mlflow, swanlab, wandb, tensorboard]}}
  results.formats: []
tasks: {{a: {{}}}}
methods: {{lora: {{peft.method: lora}}, head-only: {{peft.method: head-only}}}}
seeds: [7]
"""
READ = """import json, mlflow
from pathlib import Path
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage
runs = mlflow.search_runs(experiment_names=["tracked"], output_format="list")
tags = ("task", "method", "dataset", "seed")
found = {run.info.run_name: {"tags": {name: run.data.tags[name] for name in tags}, "loss": run.data.metrics["loss"],
                             "final": run.data.metrics["final/matthews_correlation"],
                             "configuration": mlflow.artifacts.load_text(f"{run.info.artifact_uri}/configuration.yaml")}
         for run in runs}
logs = {name: SQLiteStorage.get_logs("tracked", name) for name in SQLiteStorage.get_runs("tracked")}
trackio = {name: {"final": [each["final/matthews_correlation"] for each in log if "final/matthews_correlation" in each],
                  "configuration": (SQLiteStorage.get_run_config("tracked", name) or {}).get("configuration")}
           for name, log in logs.items()}
board = EventAccumulator("out/runs/a-lora-s7/logs").Reload()
tensorboard = {"final": [each.value for each in board.Scalars("final/matthews_correlation")],
               "text": board.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()}
print(json.dumps({"mlflow": found, "trackio": trackio, "tensorboard": tensorboard}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter with the trackers installed: MLflow needs other versions of some packages."""
    if given := os.environ.get("TRACKERS_PYTHON"):
        return Path(given)
    folder = tmp_path_factory.mktemp("trackers")
    venv.create(folder, with_pip=True)
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "shared.pth").write_text("\n".join(site.getsitepackages()))
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "trackio", "mlflow", "swanlab", "wandb"]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"the trackers cannot be installed: {done.stderr[-300:]}")
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_have_names_tags_settings_and_scores(python: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    # Runs in this process leave trackers' settings in its environment.
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MLFLOW_", "SWANLAB_"))}
    environment = {
        **clean, "TRACKIO_DIR": str(tmp_path / "trackio"), "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "HF_HUB_OFFLINE": "1",
        "SWANLAB_MODE": "offline", "SWANLAB_LOG_DIR": str(tmp_path / "swanlog"), "WANDB_MODE": "offline",
    }  # fmt: skip
    command = [python, ROOT / "benchmark.py", "--config", "s.yaml", "--jobs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    logs = "".join(path.read_text() for path in (tmp_path / "out" / "logs").glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    read = subprocess.run([python, "-c", READ], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    found = json.loads(read.stdout.splitlines()[-1])
    names = ["a-head-only-s7", "a-lora-s7"]
    assert sorted(found["trackio"]) == names
    assert sorted(found["mlflow"]) == names
    assert found["mlflow"]["a-lora-s7"]["tags"] == {"task": "a", "method": "lora", "dataset": "custom", "seed": "7"}
    assert found["mlflow"]["a-head-only-s7"]["loss"] > 0
    record = json.loads((tmp_path / "out" / "runs" / "a-lora-s7" / "results.json").read_text())
    score = record["metrics"]["matthews_correlation"]
    assert found["mlflow"]["a-lora-s7"]["final"] == pytest.approx(score)
    assert found["trackio"]["a-lora-s7"]["final"] == [pytest.approx(score)]  # once
    assert found["tensorboard"]["final"] == [pytest.approx(score)]
    written = (tmp_path / "out" / "runs" / "a-lora-s7" / "run.yaml").read_text()
    for text in (found["mlflow"]["a-lora-s7"]["configuration"], found["trackio"]["a-lora-s7"]["configuration"],
                 found["tensorboard"]["text"]):  # fmt: skip
        assert "lora_alpha: 16" in text
        assert "lora_alpha: 16" in written
    swanlab = b"".join(path.read_bytes() for path in (tmp_path / "swanlog").rglob("*") if path.is_file())
    for shown in (b"a-lora-s7", b"method:lora", b"tracked", b"final/matthews_correlation"):
        assert shown in swanlab, shown
    settings = [yaml.safe_load(path.read_text()) for path in (tmp_path / "swanlog").rglob("config.yaml")]
    assert any("lora_alpha: 16" in each["configuration"]["value"] for each in settings)
    wandb = b"".join(path.read_bytes() for path in tmp_path.rglob("wandb/offline-run-*/**/*") if path.is_file())
    for shown in (b"a-lora-s7", b"method:lora", b"final/matthews_correlation", b"lora_alpha: 16"):
        assert shown in wandb, shown
