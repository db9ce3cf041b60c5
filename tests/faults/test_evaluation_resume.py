"""A killed evaluation continues where it stopped and gives the results of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROCESS = """
import logging, sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
from utils.data.dataset import load_dataset_plugin
from utils.data.encoding import ExampleEncoder
from utils.evaluation.evaluator import evaluate_set
from utils.config.sections.evaluation import EvaluationSection
from utils.evaluation.sets import load_evaluation_sets
from utils.config.sections.generation import GenerationSection

logging.basicConfig(level=logging.INFO)
base = "examples/quickstart/base"
model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
dataset = load_dataset_plugin("gsm8k")
section = dataset.Config(name="gsm8k", path="examples/quickstart/arithmetic")
encoder = ExampleEncoder(tokenizer, 256)
evaluation = EvaluationSection(max_samples=120)
[known] = load_evaluation_sets(evaluation, dataset.describe_instructions(section), section, encoder, 42)
for folder in sys.argv[1:]:
    evaluate_set(model, tokenizer, known, GenerationSection(max_new_tokens=24, batch_size=2), Path(folder))
"""


def start(*folders: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS, *map(str, folders)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read predictions and results without timings."""
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    results = json.loads((folder / "results.json").read_text("utf-8"))
    for each in (*rows, results):
        each.pop("seconds")
    results.pop("tokens_per_s")
    return rows, results


def test_a_killed_evaluation_is_resumed(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    file = killed / "predictions.jsonl"
    process = start(killed)
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_bytes().count(b"\n") >= 11):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    num_kept = file.read_bytes().count(b"\n")
    assert 11 <= num_kept < 120
    assert not (killed / "results.json").exists()
    with file.open("ab") as torn:  # the kill rarely hits the write itself, so the torn line is made here
        torn.write(b'{"row": 7, "id": "')

    process = start(killed, whole)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert f"continuing after {num_kept} answers of an earlier call" in said
    assert f"truncated after its {num_kept} complete lines" in said
    assert read(killed) == read(whole)
    rows, results = read(killed)
    assert [row["row"] for row in rows] == list(range(120))
    assert (results["n"], results["num_total"], results["partial"]) == (120, 300, True)
