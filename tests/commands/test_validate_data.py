"""validate_config.py --data: all problems of the rows are in one report, and no model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import validate_config
from utils.cli.command_line import run_cli
from utils.config.yaml_text import dump_yaml

Check = Callable[..., tuple[int, list[str], str]]


def _write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def check(tiny_base: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Check:
    """Return a function that checks a run on a base without weights: exit code, problems of its rows, output."""

    def run(family: str, **sections: Any) -> tuple[int, list[str], str]:
        base = tmp_path / "base"
        shutil.copytree(tiny_base(family), base, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        file = tmp_path / "run.yaml"
        file.write_text(
            dump_yaml({"model": {"name_or_path": str(base)}, "peft": {"method": "lora"}, **sections}), "utf-8"
        )
        code = run_cli(validate_config.main, validate_config.build(), [str(file), "--data", "--json"])
        answer = json.loads(capfd.readouterr().out.splitlines()[-1])["files"][str(file)]
        return code, [problem["message"] for problem in answer["problems"]], "\n".join(answer["warnings"])

    return run


def test_columns_splits_and_labels_of_a_classifier(check: Check, tmp_path: Path) -> None:
    rows = [{"sentence": f"w{index}", "label": index % 2} for index in range(6)]
    rows[3]["label"] = None
    _write(tmp_path / "set" / "train.jsonl", *rows)
    code, problems, _ = check("bert", task_type="SEQ_CLS", dataset={"path": str(tmp_path / "set")})
    assert code == 1
    assert len(problems) == 4, problems
    assert "no column text; there are: sentence, label" in problems[0]
    assert "no split called validation; add one" in problems[1]
    assert f"{tmp_path / 'set' / 'train.jsonl'}:4: has no label" in problems[2]
    assert problems[3].startswith("1 of 6 rows of train cannot be used")


def test_both_splits_of_a_classifier(check: Check, tmp_path: Path) -> None:
    good = [{"text": f"w{index}", "label": index % 2} for index in range(6)]
    _write(tmp_path / "set" / "train.jsonl", *good, {"text": "w9", "label": None})
    _write(tmp_path / "set" / "validation.jsonl", *good, {"text": "w9", "label": 7})
    code, problems, _ = check("bert", task_type="SEQ_CLS", dataset={"path": str(tmp_path / "set")})
    assert code == 1
    assert [name for name in ("train.jsonl:7", "validation.jsonl:7") if any(name in each for each in problems)] == [
        "train.jsonl:7", "validation.jsonl:7",
    ]  # fmt: skip


def test_rows_validation_rows_and_evaluation_sets_of_a_language_model(check: Check, tmp_path: Path) -> None:
    good = [{"prompt": f"w{index}", "completion": " w1"} for index in range(6)]
    _write(tmp_path / "set" / "train.jsonl", *good, {"prompt": "w9", "completion": None})
    _write(tmp_path / "set" / "validation.jsonl", *good, {"prompt": None, "completion": "w3"})
    _write(tmp_path / "other" / "test.jsonl", *good, {"prompt": 3.5, "completion": []})
    sets = [{"name": "custom", "path": str(tmp_path / "other"), "split": "test", "label": "other"}]
    dataset = {"name": "custom", "path": str(tmp_path / "set")}
    code, problems, _ = check("llama", task_type="CAUSAL_LM", dataset=dataset, evaluation={"sets": sets})
    assert code == 1
    for name in ("train.jsonl:7", "validation.jsonl:7", "test.jsonl:7"):
        assert any(name in each for each in problems), problems


def test_good_rows_pass(check: Check, tmp_path: Path) -> None:
    rows = [{"text": f"w{index}", "label": index % 2} for index in range(6)]
    for split in ("train", "validation"):
        _write(tmp_path / "set" / f"{split}.jsonl", *rows)
    assert check("bert", task_type="SEQ_CLS", dataset={"path": str(tmp_path / "set")})[:2] == (0, [])


def test_without_a_tokenizer_the_rows_are_read(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _write(tmp_path / "set" / "train.jsonl", {"prompt": "w9", "completion": None})
    dataset = {"name": "custom", "path": str(tmp_path / "set")}
    code, problems, warnings = check("llama", task_type="CAUSAL_LM", dataset=dataset, model={"name_or_path": "no/body"})
    assert code == 1
    assert any("train.jsonl:1" in each for each in problems), problems
    assert "rows are read but not encoded: " in warnings
