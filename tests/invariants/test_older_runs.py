"""Runs written by an earlier version are read, resumed, merged and scored, with the same results.

tests/fixtures/older_runs.tar.gz holds two runs of twelve steps on the embedded base with all their checkpoints, written
by version 0.1: `train.py --config configs/quickstart.yaml` and `quickstart_sft.yaml` with small settings.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.commands.in_process import command

ROOT = Path(__file__).parents[2]
# Answers of the version that trained the classifier.
ANSWERS = {"the small cat sleeps": 0.7319284081459045, "cat the sleeps small the": 0.38894012570381165}


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    with tarfile.open(ROOT / "tests" / "fixtures" / "older_runs.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize(("name", "tolerance"), [("classifier", 0.0), ("language_model", 1e-6)])
def test_an_older_run_is_resumed_to_the_same_weights(older: Path, name: str, tolerance: float) -> None:
    """Language models' losses are now summed in another order, which rounds differently."""
    run = older / name
    wanted = load_file(run / "final_model" / "adapter_model.safetensors")
    scores = json.loads((run / "results.json").read_text())["metrics"]
    shutil.rmtree(run / "checkpoint-12")
    shutil.rmtree(run / "final_model")
    (run / "results.json").unlink()
    command("train", "--config", run / "run.yaml", f"training.output_dir={run}", "--resume")
    found = load_file(run / "final_model" / "adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    furthest = max(float(abs(found[key] - wanted[key]).max()) for key in wanted)
    assert furthest <= tolerance, "the resumed run gives another model"
    assert json.loads((run / "results.json").read_text())["metrics"] == pytest.approx(scores, rel=tolerance)


def test_an_older_classifier_is_used_and_merged(older: Path) -> None:
    run, merged = older / "classifier", older / "merged"
    texts = [word for text in ANSWERS for word in ("--input_text", text)]
    for place in (["--run", run], ["--run", merged]):
        if place[1] == merged:
            command("merge_adapter", "--run", run, "--output", merged)
        answers = command("inference", *place, *texts, "--json")["answers"]
        found = {each["sentence"]: each["probabilities"]["acceptable"] for each in answers}
        assert found == pytest.approx(ANSWERS, abs=1e-6)


def test_an_older_language_model_is_scored_again(older: Path) -> None:
    run, again = older / "language_model", older / "again"
    words = ("--set", "test", "--output_dir", again, "evaluation.max_samples=4")
    command("evaluate_model", "--run", run, *words)
    before, after = (
        [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for folder in (run / "eval_test", again / "test")
    )
    assert [each["prediction"] for each in after] == [each["prediction"] for each in before]
    assert len(after) == 4
