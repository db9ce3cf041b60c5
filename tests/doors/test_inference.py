"""inference.py as a user starts it, on the folders that a run leaves."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "inference.py", *words]
    return subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture
def trained(make_config, make_set, draw_rows):
    """Train a small llama on string labels in this process; its folder, and what it answered to its validation rows."""
    door = importlib.import_module("train")
    named = lambda rows: [{**row, "label": ("bad", "good")[row["label"]]} for row in rows]  # noqa: E731
    data = make_set(train=named(draw_rows(60)), validation=named(draw_rows(21, seed=1)))
    file = make_config.write("llama", data, training__num_train_epochs=3, training__load_best_model_at_end=False)
    predicted = {}
    from utils.training import reload_check

    check = reload_check.check_reload

    def watch(trainer, prepared, *rest):
        split = prepared.evals[""]
        answers = trainer.predict(split.dataset).predictions
        predicted.update(zip(split.texts["text"][:], (prepared.coder.names[answer] for answer in answers), strict=True))
        return check(trainer, prepared, *rest)

    reload_check.check_reload = watch
    try:
        answer = door.main(door.build().parse_args(["--config", str(file)]))
    finally:
        reload_check.check_reload = check
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
    filed = _start("--run", str(last), "--input_file", str(source), "--output_file", str(target))
    assert filed.returncode == 0, filed.stderr
    assert "Traceback" not in filed.stderr
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    read = [json.loads(line) for line in source.read_text().splitlines()]
    assert [(row["text"], row["input_label"]) for row in rows] == [(row["text"], row["label"]) for row in read]
    assert {row["text"]: row["label"] for row in rows} == predicted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "x"], "give either --input_text"),
        (["--run", "x", "--input_text", "a", "--input_file", "b.csv"], "give either --input_text"),
        (["--run", "x", "--input_file", "b.csv"], "go together"),
        (["--run", "x", "--input_file", "b.csv", "--output_file", "c.csv"], "b.csv: no such file"),
        (["--run", "nowhere", "--input_text", "a"], "no such folder"),
    ],
)
def test_mistakes_are_one_sentence(words, message, tmp_path, monkeypatch):
    from utils.errors import UserError

    monkeypatch.chdir(tmp_path)
    door = importlib.import_module("inference")
    with pytest.raises(UserError, match=message):
        door.main(door.build().parse_args(words))
