"""merge_adapter.py as a user starts it: a run, a kill while writing, a failed verification, and mistakes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.in_process import command, exit_code
from tests.commands.without_ml import run_without_ml

ROOT = Path(__file__).parents[2]


def _command(*words: object) -> list[str]:
    return [sys.executable, "merge_adapter.py", *map(str, words)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train four steps once; merging does not change a run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = ["training.max_steps=4", "training.learning_rate=3e-3", "dataset.max_train_samples=48"]
    words += ["evaluation.at_end=false", "training.save_strategy=no", f"training.output_dir={folder}"]
    command("train", "--config", ROOT / "configs" / "quickstart_sft.yaml", *words)
    return folder


def test_a_merged_run_works_without_this_project(run, tmp_path):
    output = tmp_path / "merged"
    done = subprocess.run(
        _command("--run", run, "--output", output, "--json"),
        cwd=ROOT, env={**os.environ, "COLUMNS": "110"}, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert json.loads((output / "merge_report.json").read_text("utf-8")) == report
    assert "merged, read back" in done.stderr, "with --json the table goes to standard error"
    assert "Warning" not in done.stderr
    assert report["probe"]["top1_agreement"] == 1
    names = {each.name for each in output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "merged_run.yaml"} <= names
    assert not names & {"adapter_config.json", "run.yaml"}
    assert (output / "merged_run.yaml").read_text("utf-8") == (run / "run.yaml").read_text("utf-8")
    assert {oct(each.stat().st_mode) for each in output.iterdir()} == {oct((output / "config.json").stat().st_mode)}


def test_a_kill_while_writing_leaves_no_output(run, tmp_path, capsys):
    output, partial = tmp_path / "merged", tmp_path / "merged.partial"
    words = ("--run", run, "--output", output, "--max_shard_size", "100KB")
    with subprocess.Popen(_command(*words), cwd=ROOT, stderr=subprocess.PIPE, text=True) as script:
        deadline = time.monotonic() + 120
        while not list(partial.glob("*.safetensors")):
            assert script.poll() is None, script.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        script.send_signal(signal.SIGKILL)
    assert not output.exists()
    assert partial.exists()
    assert exit_code("merge_adapter", *words) == 0
    assert (output / "model.safetensors.index.json").is_file()
    assert not partial.exists()
    assert "merged, read back" in capsys.readouterr().out
    assert exit_code("merge_adapter", *words) == 2
    assert f"error: {output}: is not empty" in capsys.readouterr().err


def test_a_failed_verification_exits_with_1(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.adapters.lora.merge", lambda model: model.unload())
    assert exit_code("merge_adapter", "--run", run, "--output", tmp_path / "out" / "merged") == 1
    told = capsys.readouterr().err
    assert "error: the merged model is not the trained one" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists(), "it was made for the model, which is gone"


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Run the command with every ML library blocked, once for all mistakes; return exit code and message by name."""
    folder = tmp_path_factory.mktemp("whole")
    dataset = "dataset: {name: custom, path: rows.jsonl}\n"
    (folder / "run.yaml").write_text(
        f"task_type: SEQ_CLS\nmodel: {{name_or_path: bert-base-uncased}}\npeft: {{method: head-only}}\n{dataset}"
    )
    (folder / "config.json").write_text("{}")
    (folder / "labels.json").write_text('["0", "1"]')
    words = {
        "neither": ["--output", "x"],
        "both": ["--run", "x", "--config", "y", "--adapter_path", "z", "--output", "x"],
        "half": ["--config", "y", "--output", "x"],
        "no folder": ["--run", "nowhere", "--output", "x"],
        "no adapter": ["--run", str(folder), "--output", "x"],
        "no config": ["--config", "nowhere.yaml", "--adapter_path", "z", "--output_path", "x"],
    }
    answers = run_without_ml([["merge_adapter", each] for each in words.values()])
    return {name: (each["code"], each["err"]) for name, each in zip(words, answers, strict=True)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("neither", "error: give either --run (a trained run), or --config and --adapter_path"),
        ("both", "error: give either --run (a trained run), or --config and --adapter_path"),
        ("half", "error: give either --run (a trained run), or --config and --adapter_path"),
        ("no folder", "error: nowhere: no such folder"),
        ("no adapter", "peft.method head-only: there is no adapter to merge: final_model/ is the whole model already"),
        ("no config", "nowhere.yaml"),
    ],
)
def test_mistakes_are_reported_before_loading(refused, name, message):
    code, complaint = refused[name]
    assert code == 2, complaint
    assert message in complaint
    assert "Traceback" not in complaint


@pytest.mark.parametrize("words", [["--max_shard_size", "5 gigabytes"], ["--eval_rows", "-1"], ["--dtype", "int8"]])
def test_invalid_values(words, capsys):
    script = importlib.import_module("merge_adapter")
    with pytest.raises(SystemExit) as ended:
        script.build().parse_args(["--run", "x", "--output", "y", *words])
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err
