"""train.py as a user starts it: one file in, a complete run folder out, one JSON object, and clear exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _start(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=240
    )


def _read(run: Path, name: str):
    return json.loads((run / name).read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A place for the module's one run."""
    return tmp_path_factory.mktemp("command")


def test_a_complete_run(make_config, make_set, draw_rows, made):
    """Everything that the run folder promises, then the same command again."""
    rows = [{**row, "label": ("bad", "good")[row["label"]]} for row in draw_rows(40)]
    held = [{**row, "label": ("bad", "good")[row["label"]]} for row in draw_rows(17, seed=1)]
    run = made / "run"
    file = make_config.write(
        "bert", make_set(train=rows, validation=held), training__output_dir=str(run),
        training__num_train_epochs=2, training__logging_steps=1,
    )  # fmt: skip
    done = _start("--config", str(file), "--json", "peft.lora_r=2")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (answer["status"], answer["method"], answer["already_done"]) == ("success", "lora", False)
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr, done.stderr

    names = {path.name for path in run.iterdir()}
    assert names >= {
        "run.yaml", "provenance.json", "final_model", "best_model", "all_results.json", "train_results.json",
        "eval_results.json", "results.json", "results.xlsx", "report.html", "curves.csv", "curves.svg",
        "probe_rows.jsonl", "logs", "labels.json",
    }  # fmt: skip
    final = {path.name for path in (run / "final_model").iterdir()}
    assert final >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "run.yaml", "labels.json"}
    assert (run / "best_model").resolve().name.startswith("checkpoint-")
    assert list((run / "logs").rglob("events.out.tfevents*"))
    assert _read(run, "labels.json") == ["bad", "good"]
    assert _read(run / "final_model", "adapter_config.json")["r"] == 2
    assert len((run / "probe_rows.jsonl").read_text().splitlines()) == 17

    train, evaluation = _read(run, "train_results.json"), _read(run, "eval_results.json")
    assert {"train_loss", "train_runtime", "train_samples", "train_samples_per_second", "epoch"} <= set(train)
    assert {"eval_accuracy", "eval_f1", "eval_loss", "eval_runtime", "eval_samples"} <= set(evaluation)
    assert _read(run, "all_results.json") == {**train, **evaluation}
    record = _read(run, "results.json")
    assert record["version"] == 1
    assert record["metrics"]["accuracy"] == evaluation["eval_accuracy"]
    assert record["data"]["train_rows"] == 40
    assert record["params"]["trainable"] == 2 * 2 * 2 * (32 + 32) + 32 * 2 + 2  # r=2, query and value, two layers
    assert record["reload_check"]["rows"] == 17
    assert record["best_metric"]["step"] in (5, 10)
    provenance = _read(run, "provenance.json")
    assert provenance["versions"]["torch"]
    assert provenance["data"]["fingerprint"] == record["data"]["fingerprint"]

    import yaml

    resolved = yaml.safe_load((run / "run.yaml").read_text())
    assert resolved["peft"]["lora_r"] == 2

    again = _start("--config", str(file), "--json", "peft.lora_r=2")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["already_done"] is True
    assert "already done" in again.stderr
    assert json.loads(again.stdout)["metrics"] == answer["metrics"]


def test_a_hub_dataset_without_network_is_reported_in_one_sentence(make_config):
    file = make_config.write("bert", dataset={"name": "nobody/nothing-at-all"})
    ended = _start("--config", str(file), "--json", HF_HUB_OFFLINE="1")
    assert ended.returncode == 2, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["status"] == "bad_input"
    assert "nobody/nothing-at-all" in answer["error"]
    assert "Traceback" not in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("error: ")] == [f"error: {answer['error']}"]
