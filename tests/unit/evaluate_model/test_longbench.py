"""Several LongBench subsets are averaged by category; models without a run get each subset's own prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from utils.evaluate_model.evaluated_model import open_model
from utils.evaluate_model.evaluation import average_longbench, render_averages
from utils.evaluate_model.folders import Entry

BASE = Path(__file__).parents[3] / "examples" / "quickstart" / "base"


def _entry(subset: str | None, value: float, metric: str = "longbench_score") -> Entry:
    facts = {} if subset is None else {"facts": {"subsets": [subset]}}
    return Entry(subset or "x", Path("x"), {"metrics": {metric: value}, **facts}, (metric,), False)


def test_several_subsets_are_averaged() -> None:
    entries = [_entry("qasper", 0.1), _entry("narrativeqa", 0.2), _entry("lcc", 0.5), _entry(None, 1.0, "rouge_l")]
    averages = average_longbench(entries)
    assert averages == pytest.approx({"single-doc QA": 0.15, "code": 0.5, "average": 0.325})
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_averages(averages))
    assert [line.split()[-1] for line in capture.get().splitlines() if line.strip()][3:] == ["15.00", "50.00", "32.50"]


def test_one_subset_has_no_average() -> None:
    assert average_longbench([_entry("qasper", 0.1), _entry(None, 1.0, "rouge_l")]) == {}
    assert average_longbench([_entry("qasper", 0.1), _entry("lcc", 0.4, "rouge_l")]) == {}


def test_a_model_without_a_run_takes_the_configuration_of_its_sets(tmp_path: Path) -> None:
    rows = {"input": "q", "context": "c", "answers": ["a"], "length": 1, "dataset": "trec", "all_classes": ["a"]}
    (tmp_path / "trec.jsonl").write_text(json.dumps(rows) + "\n")
    words = [f"{{name: longbench, path: {tmp_path}, subsets: [trec, lsht]}}", f"{{name: qmsum, path: {tmp_path}}}"]
    settings = ["evaluation.max_prompt_length=99", "evaluation.truthfulqa.scorer=rougeL"]
    subject = open_model(str(BASE), words, settings, str(tmp_path / "out"))
    first, second = (job.config for job in subject.jobs)
    assert (first.dataset.name, first.dataset.subsets) == ("longbench", ["trec", "lsht"])
    assert second.dataset.name == "qmsum"
    assert first.evaluation.max_prompt_length == 99
