"""benchmark.py: the plan without ML libraries, real runs including a crash, retries, changes, reports."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.search import plan_suite
from utils.benchmark.state import find_status
from utils.benchmark.suite_reader import read_suite

ROOT = Path(__file__).parents[2]
SUITE = f"""suite: command
base: {ROOT}/configs/quickstart.yaml
output_dir: out
run:
  model.name_or_path: {ROOT}/examples/quickstart/base
  dataset: {{path: {ROOT}/examples/quickstart/acceptability, max_train_samples: 48, max_eval_samples: 32}}
  training: {{num_train_epochs: 1, use_cpu: true, report_to: none, save_strategy: "no", load_best_model_at_end: false}}
  results.formats: []
tasks: {{good: {{}}}}
baselines: [majority]
"""
CRASH = SUITE.replace("tasks: {good: {}}", "tasks: {good: {}, bad: {dataset.text_column: nowhere}}")


class Script:
    """benchmark.py in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, suite: str = SUITE) -> tuple[int, Any, str]:
        (self.folder / "s.yaml").write_text(suite, encoding="utf-8")
        command = [sys.executable, str(ROOT / "benchmark.py"), "--config", "s.yaml", "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=300)
        assert done.stdout.count("\n") == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def statuses(answer: Any) -> dict[str, str]:
    return {run["name"]: run["status"] for run in answer["runs"]}


def test_help_and_the_plan_need_no_ml_library(tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "peft", "trl", "datasets", "evaluate", "pandas", "openpyxl"}
    for words in (["--help"], ["--config", "configs/benchmarks/glue_methods.yaml", "--dry-run", "--output_dir", "x"]):
        command = [sys.executable, "-X", "importtime", "benchmark.py", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert not imported & heavy
    assert "90 runs: 90 to do" in done.stdout
    assert not (ROOT / "x").exists(), "a plan writes nothing"


def test_a_plan_of_five_hundred_runs_is_fast(tmp_path: Path) -> None:
    """Two seconds on an idle machine; ten here, since tests share theirs."""
    text = SUITE.replace("tasks: {good: {}}", f"tasks: {{a: {{}}}}\nseeds: {list(range(500))}")
    (tmp_path / "s.yaml").write_text(text.replace(f"{ROOT}/examples/quickstart/base", "nobody/nowhere"))
    started = time.monotonic()
    command = [sys.executable, str(ROOT / "benchmark.py"), "--config", "s.yaml", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert time.monotonic() - started < 10
    assert "500 runs: 500 to do" in done.stdout
    assert done.stdout.count("  to do\n") == 500


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--status", "--report"], "--report and --status do different things; give one of them"),
        (["--task", "bad"], "--task bad: the suite has no such task; use one of: good"),
        (["peft.lora_rr=4"], "command line  peft.lora_rr: unknown key; did you mean lora_r?"),
        (["seed=4"], "command line  seed: every run has its own; use --seeds 1,2,3"),
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(words: list[str], sentence: str, script: Script) -> None:
    code, answer, err = script(*words)
    assert code == 2
    assert answer["status"] == "bad_input"
    assert sentence in err
    assert [path.name for path in script.folder.iterdir()] == ["s.yaml"]


@pytest.mark.parametrize("words", [["--seeds", "1,1"], ["--shard", "3/2"], ["--shard", "0/2"], ["--epochs", "0"],
                                   ["--jobs", "0"], ["--retry", "x"]])  # fmt: skip
def test_a_wrong_command_line_shows_the_usage(words: list[str]) -> None:
    command = [sys.executable, "benchmark.py", "--config", "configs/benchmarks/quickstart.yaml", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: benchmark.py")


def test_a_crash_stops_no_other_run_and_finished_runs_are_kept(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    code, answer, err = script("--jobs", "2", suite=CRASH)
    assert code == 1
    assert statuses(answer) == {"good-lora-s42": "success", "bad-lora-s42": "failed"}
    assert "nowhere" in next(run["note"] for run in answer["runs"] if run["status"] == "failed")
    assert "good-lora-s42: success" in err
    report = json.loads((script.folder / answer["reports"]["json"]).read_text())
    record = json.loads((script.folder / "out/runs/good-lora-s42/results.json").read_text())
    rows = {(row["task"], row["method"]): row for row in report["rows"]}
    assert rows["good", "lora"]["figures"]["best"]["mean"] == record["best_metric"]["value"]
    assert rows["good", "majority"]["kind"] == "baseline"
    assert rows["bad", "lora"]["runs"][0]["status"] == "failed"

    before = (script.folder / "out/runs/good-lora-s42/results.json").stat()
    code, answer, err = script(suite=CRASH)  # nothing is started: all runs are done or have failed before
    assert code == 1
    assert "good-lora-s42: done" in err
    assert "bad-lora-s42: failed  failed before; --retry tries it again" in err
    assert (script.folder / "out/runs/good-lora-s42/results.json").stat() == before

    monkeypatch.chdir(script.folder)
    assert [find_status(run) for run in plan_suite(read_suite("s.yaml")).runs] == ["done", "failed"]
    Path("s.yaml").write_text(CRASH.replace("nowhere", "sentence"))
    mended = [find_status(run) for run in plan_suite(read_suite("s.yaml")).runs]
    assert mended == ["done", "to do"], "a fixed run needs no --retry"


@pytest.mark.slow
def test_a_changed_configuration_runs_again_and_the_old_folder_is_kept(script: Script) -> None:
    assert script()[0] == 0
    code, answer, _ = script("training.learning_rate=1e-3")
    assert code == 0
    assert statuses(answer) == {"good-lora-s42": "success"}
    (old,) = script.folder.glob("out/runs/good-lora-s42.old_*")
    assert "learning_rate: 0.003" in (old / "run.yaml").read_text()
    assert "learning_rate: 0.001" in (script.folder / "out/runs/good-lora-s42/run.yaml").read_text()


@pytest.mark.slow
def test_timeouts_and_retries(script: Script) -> None:
    slow = SUITE + "timeout_minutes: 0.02\n"
    code, answer, err = script("--retry", suite=slow)
    assert code == 1
    assert statuses(answer) == {"good-lora-s42": "timed out"}
    assert err.count("timed out") >= 2, "it was attempted twice"
    assert "it is tried again" in err
    code, answer, err = script()
    assert "timed out before; --retry tries it again" in err
    code, answer, err = script("--retry")
    assert code == 0, err
    assert statuses(answer) == {"good-lora-s42": "success"}


def test_only_selected_runs_are_run_and_shown(script: Script) -> None:
    two = SUITE.replace("tasks: {good: {}}", "tasks: {good: {}, other: {}}")
    code, answer, _ = script("--report", "--task", "good", suite=two)
    assert code == 0
    assert statuses(answer) == {"good-lora-s42": "missing"}
    code, answer, _ = script("--report", suite=two)
    assert statuses(answer) == {"good-lora-s42": "missing", "other-lora-s42": "missing"}
