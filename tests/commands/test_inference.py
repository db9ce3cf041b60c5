"""inference.py as a user starts it, on the folders that a run leaves."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.in_process import command
from tests.commands.without_ml import run_without_ml

ROOT = Path(__file__).parents[2]


def _start(*words: str, **options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "inference.py", *words]
    return subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=240, **options
    )


@pytest.fixture
def trained(make_config, make_set, draw_rows, monkeypatch):
    """Train a small Llama on string labels; return its folder and its answers to its validation rows."""
    script = importlib.import_module("train")
    named = lambda rows: [{**row, "label": ("bad", "good")[row["label"]]} for row in rows]
    data = make_set(train=named(draw_rows(60)), validation=named(draw_rows(21, seed=1)))
    file = make_config.write("llama", data, training__num_train_epochs=3, training__load_best_model_at_end=False)
    predicted = {}
    from utils.runs import export

    write = export.export_model

    def watch(folder, config, trainer, tokenizer, prepared):
        split = prepared.evals[""]
        answers = trainer.predict(split.dataset).predictions
        predicted.update(zip(split.texts["text"][:], (prepared.coder.names[answer] for answer in answers), strict=True))
        write(folder, config, trainer, tokenizer, prepared)

    monkeypatch.setattr(export, "export_model", watch)
    answer = script.main(script.build().parse_args(["--config", str(file)]))
    return Path(answer["output_dir"]), data, predicted


def test_texts_and_files_are_answered_as_in_training(trained, tmp_path):
    run, data, predicted = trained
    assert len(set(predicted.values())) == 2, "one answer for all rows would prove nothing"
    texts = list(predicted)[:2]
    words = [word for text in texts for word in ("--input_text", text)]
    asked = _start("--run", str(run), *words, "--json")
    assert asked.returncode == 0, asked.stderr
    answers = json.loads(asked.stdout)["answers"]
    assert [(row["text"], row["label"]) for row in answers] == [(text, predicted[text]) for text in texts]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1.0)

    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    source, target = data / "validation.jsonl", tmp_path / "answers.jsonl"
    filed = command("inference", "--run", last, "--input_file", source, "--output_file", target)
    assert filed["rows"] == 21
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    read = [json.loads(line) for line in source.read_text().splitlines()]
    assert [(row["text"], row["input_label"]) for row in rows] == [(row["text"], row["label"]) for row in read]
    assert {row["text"]: row["label"] for row in rows} == predicted


def test_standard_input_to_standard_output():
    words = ("--model", "examples/quickstart/base", "--max_new_tokens", "4")
    done = _start(*words, input="A boy\n\nA girl is\n")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["A boy", "", "A girl is"]
    assert 0 < rows[0]["num_tokens"] <= 4
    assert "rows/s" in done.stderr
    assert "tokens/s" in done.stderr


def test_mistakes_are_reported_before_loading(tmp_path):
    """One process with every ML library blocked."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text(
        f"task_type: CAUSAL_LM\nmodel: {{name_or_path: {ROOT}/examples/quickstart/base}}\ndataset: {{name: gsm8k}}\n"
    )
    (run / "config.json").write_text("{}")
    (run / "checkpoint-of-mine").mkdir()
    (tmp_path / "in.csv").write_text("id,body\n1,x\n")
    (tmp_path / "empty.txt").write_text("")
    text = ["--input_text", "a"]
    asked = {
        "name one model": text,
        "nowhere: no such folder": ["--run", "nowhere", *text],
        "no such checkpoint; it has none": ["--run", str(run), "--checkpoint", "3", *text],
        "give either --input_text or": ["--run", str(run), *text, "--input_file", "b.csv"],
        "no such file": ["--run", str(run), "--input_file", "b.csv"],
        "the file is empty": ["--run", str(run), "--input_file", str(tmp_path / "empty.txt")],
        "no column question; there are: id, body": ["--run", str(run), "--input_file", str(tmp_path / "in.csv")],
        "--temperature: Input should be greater": ["--run", str(run), *text, "--temperature", "-1"],
        "the folder holds a run; name it by --run": ["--model", str(run), *text],
        "does not exist; name a folder": ["--model", "./nowhere", *text],
    }
    answers = run_without_ml([["inference", words] for words in asked.values()])
    for message, answer in zip(asked, answers, strict=True):
        assert answer["code"] == 2, answer
        assert answer["err"].startswith("error: ")
        assert message in answer["err"]
