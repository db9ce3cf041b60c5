"""evaluate_model.py --answers: answers written by anything are scored without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.in_process import command
from utils.core.errors import LoraNsError

ROOT = Path(__file__).parents[2]
ROWS = [
    {"response": r"So \boxed{0.5}.", "gold": r"\frac{1}{2}", "level": 1},
    {"response": "The answer is: 3", "gold": "3", "level": 2},
    {"response": r"\boxed{3}", "gold": "3", "level": 2},
    {"response": "none", "gold": "4", "level": 2},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score(path: Path, *words: object) -> dict[str, Any]:
    [found] = command("evaluate_model", "--answers", path, *map(str, words))["sets"].values()
    return found


def test_several_metrics_with_intervals_and_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "mine.jsonl", ROWS)
    words = ("--metric", "math_equivalence", "--metric", "math_metamath", "--prediction", "response")
    found = score(file, *words, "--reference", "gold", "--group", "level", "--output_dir", tmp_path / "scored")
    assert found["metrics"] == {"math_equivalence": 0.5, "math_metamath": 0.25}
    assert found["interval"]["math_equivalence"] == pytest.approx((0.15, 0.85), abs=0.005), "Wilson's of 2 in 4"
    by_level = found["groups"]["level"]
    assert {name: part["metrics"]["math_equivalence"] for name, part in by_level.items()} == {"1": 1.0, "2": 1 / 3}
    assert "level: 2" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "scored" / "predictions.jsonl").read_text().splitlines()]
    assert [each["scores"]["math_equivalence"] for each in records] == [1.0, 0.0, 1.0, 0.0]
    assert json.loads((tmp_path / "scored" / "results.json").read_text())["metrics"] == found["metrics"]
    again = score(tmp_path / "scored" / "predictions.jsonl", "--metric", "math_equivalence")
    assert again["metrics"] == {"math_equivalence": 0.5}, "our own files' columns are the defaults"


def test_rows_without_a_group_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prediction": "a", "reference": "a", "kind": kind} for kind in ("x", None, "x")]
    found = score(write(tmp_path / "mine.jsonl", rows), "--metric", "exact_match", "--group", "kind")
    assert found["groups"]["kind"]["x"]["n"] == 2
    assert "--group kind: 1 of 3 rows have no value there and are in no group" in caplog.text
    with pytest.raises(LoraNsError, match=r"column kind holds a list instead of the name of a group"):
        score(write(tmp_path / "mine.jsonl", [{**rows[0], "kind": ["x"]}]), "--metric", "rouge_l", "--group", "kind")


def test_a_file_without_a_readable_row_is_rejected_for_its_first(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prediction": NaN, "reference": "a"}\n')
    with pytest.raises(LoraNsError, match=r"mine\.jsonl:1: not JSON \(NaN is not a JSON number\)"):
        score(file, "--metric", "rouge_l")


def test_the_best_reference_and_every_answer_count(tmp_path: Path) -> None:
    rows = [{"prediction": ["a b", "c"], "reference": ["a", "a b"]}, {"prediction": 5, "reference": 5}]
    found = score(write(tmp_path / "mine.jsonl", rows), "--metric", "exact_match")
    assert (found["metrics"], found["n"], found["num_answers"]) == ({"exact_match": 0.75}, 2, 3)


def test_references_from_a_dataset(tmp_path: Path) -> None:
    problems = [{"problem": f"{each}?", "solution": rf"\boxed{{{each}}}", "unique_id": f"n{each}"} for each in range(2)]
    where = f"{{name: math, path: {write(tmp_path / 'set.jsonl', problems)}}}"
    answers = [("n1", "1"), ("n0", "7"), ("n1", "0"), ("n0", r"\boxed{0}")]
    file = write(tmp_path / "mine.jsonl", [{"id": name, "prediction": text} for name, text in answers])
    found = score(file, "--set", where, "--id", "id")
    assert found["metrics"] == {"math_equivalence": 0.5, "math_metamath": 0.0}
    assert (found["n"], found["num_answers"]) == (2, 4)
    inorder = write(tmp_path / "two.jsonl", [{"out": "0"}, {"out": "2"}])
    assert score(inorder, "--set", where, "--prediction", "out")["metrics"]["math_equivalence"] == 0.5
    with pytest.raises(LoraNsError, match="4 rows for the set's 2; name the column by --id"):
        score(file, "--set", where)
    with pytest.raises(LoraNsError, match="no answer to 1 of the set's 2 rows: n1"):
        score(write(tmp_path / "one.jsonl", [{"id": "n0", "prediction": "0"}]), "--set", where, "--id", "id")
    with pytest.raises(LoraNsError, match=r"one.jsonl:1: the set has no row named n5"):
        score(write(tmp_path / "one.jsonl", [{"id": "n5", "prediction": "0"}]), "--set", where, "--id", "id")
    same = write(tmp_path / "same.jsonl", [problems[0], problems[0]])
    with pytest.raises(LoraNsError, match="--id: 2 rows of math have 1 names; leave it out"):
        score(file, "--set", f"{{name: math, path: {same}}}", "--id", "id")
    sums = "{name: gsm8k, path: examples/quickstart/arithmetic}"
    with pytest.raises(LoraNsError, match="--id: rows of gsm8k have no names"):
        score(file, "--set", sums, "--id", "id")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--reference", "gold"), "--answers: name at least one --metric"),
        (("--metric", "math_equivalense"), "no metric of generated texts called math_equivalense; did you mean"),
        (("--metric", "accuracy"), "no metric of generated texts called accuracy"),
        (("--metric", "rouge_l"), "--reference: no column reference or references in"),
        (("--metric", "rouge_l", "--reference", "right"), "--reference: no column right in"),
        (("--metric", "rouge_l", "--reference", "gold", "--group", "kind"), "mine.jsonl:1: no column kind"),
        (("--metric", "truthfulqa_accuracy", "--reference", "gold"), "mine.jsonl:1: truthfulqa_accuracy needs an"),
        (("--metric", "em_strict", "--reference", "gold"), "no reference has an answer for the metric em_strict"),
        (("--set", "glue:cola"), "no dataset of texts"),
        (("--set", "gsm8k", "--reference", "gold"), "one --set or one --reference"),
        (("--metric", "rouge_l", "--reference", "gold", "--id", "level"), "--id names the column"),
        (("--metric", "rouge_l", "--run", "outputs/x"), "--answers needs no model"),
        (("--metric", "rouge_l", "--reference", "gold", "seed=1"), "seed: has no effect on existing answers"),
        (
            ("--metric", "rouge_l", "--reference", "gold", "evaluation.longbench.code_similarity=x"),
            "code_similarity: Inp",
        ),
    ],
)
def test_unscorable_answers_are_refused(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    file = write(tmp_path / "mine.jsonl", ROWS)
    with pytest.raises(LoraNsError, match=sentence):
        score(file, "--prediction", "response", *words)


def test_a_row_without_an_answer_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{"prediction": "a", "reference": "a"}, {"prediction": None}])
    with pytest.raises(LoraNsError, match=r"mine.jsonl:2: column prediction holds nothing \(null\) instead of a text"):
        score(file, "--metric", "rouge_l")
    with pytest.raises(LoraNsError, match="--metric is for --answers FILE"):
        command("evaluate_model", "--model", "gpt2", "--metric", "rouge_l")


def test_pass_at_k_needs_enough_answers(tmp_path: Path) -> None:
    reference = {"before": "", "tests": ""}
    file = write(tmp_path / "mine.jsonl", [{"prediction": ["x = 1"], "reference": reference}])
    with pytest.raises(LoraNsError, match=r"mine.jsonl:1: pass_at_10 needs at least 10 answers; the row has 1"):
        score(file, "--metric", "pass_at_10", "--allow_code_execution")


def test_code_similarity_can_be_chosen(tmp_path: Path) -> None:
    row = {"prediction": "for i in range(10):", "reference": {"subset": "lcc", "answers": ["while True:"]}}
    file = write(tmp_path / "mine.jsonl", [row])
    flag, word = ("--code_similarity", "levenshtein"), ("evaluation.longbench.code_similarity=levenshtein",)
    found = [score(file, "--metric", "longbench_score", *words) for words in ((), flag, word)]
    assert [each["scorer"] for each in found] == ["difflib", "levenshtein", "levenshtein"]
    assert [each["metrics"]["longbench_score"] for each in found] == [0.2, 0.33, 0.33]


def test_torch_is_not_imported(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", ROWS)
    code = (
        "import sys, evaluate_model as e; e.main(e.build().parse_args(sys.argv[1:]));"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules], file=sys.stderr)"
    )
    words = ["--answers", str(file), "--metric", "math_equivalence", "--prediction", "response", "--reference", "gold"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"
