"""evaluate_model.py as a user starts it: a run, a base model, a classifier, a kill in the middle, and mistakes."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands.without_ml import run_without_ml
from utils.cli.command_line import run_cli

ROOT = Path(__file__).parents[2]
BASE, SUMS = "examples/quickstart/base", "examples/quickstart/arithmetic"
ON_SUMS = f"{{name: gsm8k, path: {SUMS}, label: test}}"
IN_WORDS = 'dataset.prompt_template="{question}"'


def _command(*words: object) -> list[str]:
    return [sys.executable, "evaluate_model.py", *map(str, words)]


def _start(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run(
        _command(*words), cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def _train(config: Any) -> Path:
    script = importlib.import_module("train")
    return Path(script.main(script.build().parse_args(["--config", config.source]))["output_dir"])


def _hash_record(run: Path) -> dict[str, str]:
    files = ("results.json", "all_results.json", "run.yaml", "provenance.json")
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in files}


def test_a_run_is_scored_on_its_own_sets_and_others(make_sft, tmp_path):
    sets = [{"name": "gsm8k", "split": "test[:10]", "label": "test"}]
    run = _train(
        make_sft(training__max_steps=3, evaluation={"sets": sets}, generation={"max_new_tokens": 12, "batch_size": 5})
    )
    before = _hash_record(run)
    done = _start("--run", run, "--set", "test", "--set", "@test_unseen[:4]", "--json")
    assert done.returncode == 0, done.stderr
    assert "eval_test: already done with these weights, rows and settings" in done.stderr
    assert "em_strict" in done.stderr, "with --json the table goes to standard error"
    answer = json.loads(done.stdout)
    assert answer["weights"]["weights"] == "final_model"
    own, other = answer["sets"]["test"], answer["sets"]["test_unseen_4"]
    record = json.loads((run / "results.json").read_text("utf-8"))["evaluation"]["test"]
    assert own["reused"]
    assert own["prompt_hash"] == record["prompt_hash"]
    assert (other["reused"], other["n"], other["folder"]) == (False, 4, str(run / "eval_test_unseen_4"))
    command = json.loads((run / "eval_test_unseen_4" / "results.json").read_text("utf-8"))["provenance"]["command"]
    assert command == f"evaluate_model.py --run {run} --set test --set '@test_unseen[:4]' --json"
    assert _hash_record(run) == before


@pytest.mark.slow
def test_a_killed_evaluation_is_resumed(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    overrides = (IN_WORDS, "generation.batch_size=2", "generation.max_new_tokens=24", "evaluation.max_samples=200")
    words = ("--model", BASE, "--set", ON_SUMS, *overrides)
    file = killed / "test" / "predictions.jsonl"
    with subprocess.Popen(
        _command(*words, "--output_dir", killed), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as script:
        deadline = time.monotonic() + 120
        while not (file.exists() and file.read_bytes().count(b"\n") >= 9):
            assert script.poll() is None, script.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        script.send_signal(signal.SIGKILL)
    num_kept = file.read_bytes().count(b"\n")
    assert 9 <= num_kept < 200
    again = _start(*words, "--output_dir", killed)
    assert again.returncode == 0, again.stderr
    assert f"continuing after {num_kept} answers of an earlier call" in again.stderr
    assert "200 / 300" in again.stdout
    assert "partial" in again.stdout

    from utils.evaluate_model.evaluated_model import open_model
    from utils.evaluate_model.evaluation import evaluate

    [entry] = evaluate(open_model(BASE, [ON_SUMS], overrides, str(whole)))
    answers = [
        [json.loads(line) for line in (folder / "test" / "predictions.jsonl").read_text("utf-8").splitlines()]
        for folder in (killed, whole)
    ]
    for row in (*answers[0], *answers[1]):
        row.pop("seconds")
    assert answers[0] == answers[1]
    assert entry.result["metrics"]["em_flexible"] > 0.9, "the base generates sums in words"
    assert entry.result["metrics"]["em_strict"] == 0, "and never generates ####"


def test_scoring_a_classifier_run(make_config, make_set, draw_rows, monkeypatch, capsys):
    data = make_set(train=draw_rows(40), validation=draw_rows(17, seed=1), test=draw_rows(9, seed=2))
    run = _train(make_config("llama", data))
    before = _hash_record(run)
    monkeypatch.setenv("COLUMNS", "100")
    capsys.readouterr()
    script = importlib.import_module("evaluate_model")
    assert run_cli(script.main, script.build(), ["--run", str(run), "--set", "validation", "--set", "test"]) == 0
    told = capsys.readouterr()
    assert "in the run's own record (+0.00)" in told.err
    rows = {line.split()[0]: line.split() for line in told.out.splitlines() if line.strip()}
    record = json.loads((run / "results.json").read_text("utf-8"))
    assert rows["validation"][1:3] == ["accuracy", f"{record['metrics']['accuracy'] * 100:.2f}"]
    assert rows["test"][-1] == "9"
    assert _hash_record(run) == before


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Run the command with every ML library blocked, once for all mistakes; return exit code and message by name."""
    adapter, run = tmp_path_factory.mktemp("adapter"), tmp_path_factory.mktemp("run")
    (adapter / "adapter_config.json").write_text("{}")
    (run / "run.yaml").write_text(
        f"task_type: CAUSAL_LM\nmodel: {{name_or_path: {ROOT / BASE}}}\ndataset: {{name: gsm8k}}\n"
    )
    (run / "config.json").write_text("{}")
    words = {
        "neither": [],
        "both": ["--run", "x", "--model", "y"],
        "no set": ["--model", BASE],
        "no folder": ["--run", "nowhere"],
        "unknown set": ["--model", BASE, "--set", "gsm9k"],
        "unknown set of a run": ["--run", str(run), "--set", "gsm9k"],
        "adapter": ["--model", str(adapter), "--set", "gsm8k"],
        "no model": ["--model", "./nowhere", "--set", "gsm8k"],
        "idle": ["--run", str(run), "training.learning_rate=1e-3"],
        "settled": ["--run", str(run), "dataset.prompt_template=x"],
        "misspelt": ["--run", str(run), "generation.max_new_token=3"],
    }
    answers = run_without_ml([["evaluate_model", each] for each in words.values()])
    return {name: (each["code"], each["err"]) for name, each in zip(words, answers, strict=True)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("neither", "error: give either --run (a trained run), --model (a published model) or --adapter"),
        ("both", "error: give either --run (a trained run), --model (a published model) or --adapter"),
        ("no set", "needs a --set to be scored on"),
        ("no folder", "error: nowhere: no such folder"),
        ("unknown set", "gsm9k is neither a dataset nor a hub id, file or folder; did you mean gsm8k"),
        ("unknown set of a run", "error: --set gsm9k: gsm9k is neither a dataset nor a hub id, file or folder"),
        ("adapter", "the folder holds an adapter; name it by --adapter"),
        ("no model", "does not exist; name a folder that holds config.json"),
        ("idle", "error: command line  training.learning_rate: has no effect here, since nothing is trained"),
        ("settled", "error: command line  dataset.prompt_template: is fixed by the run"),
        ("misspelt", "error: command line  generation.max_new_token: unknown key"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_before_loading(refused, name, message):
    code, complaint = refused[name]
    assert code == 2, complaint
    assert message in complaint
    assert "Traceback" not in complaint
