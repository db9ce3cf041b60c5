"""Math expressions by each rule, case by case, and the rules compared on 800 real answers."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.scoring import compute_metric
from utils.metrics.math_expressions import (
    clean_expression,
    find_boxed,
    find_meta_math_expression,
    is_equivalent,
    normalize_minerva,
)
from utils.metrics.metric import load_metric

SCORED = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "math" / "scored.jsonl"
GOLD = r"We get $$\frac{3}{6} = \boxed{\frac{1}{2}}.$$"


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{1} and \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"so \boxed{a_{1}} costs {5}", "a_{1}"),
        (r"is \boxed 3$.", "3"),
        (r"is \fbox{3}", "3"),
        (r"is \fbox{3} or \boxed{4}", "4"),
        (r"\boxed{never closed", None),
        (r"\boxed\text{x}", None),
        ("3", None),
    ],
)
def test_the_last_box(text: str, boxed: str | None) -> None:
    assert find_boxed(text) == boxed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\tfrac12", r"\frac{1}{2}"),
        (r"\dfrac1{72}", r"\frac{1}{72}"),
        ("0.5", "1/2"),
        (".5", "0.5"),
        ("k = 3", "3"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"90^\circ", "90"),
        (r"30\%", "30"),
        (r"\$18", "18"),
        (r"5\text{ cm}", "5"),
        (r"x\sqrt", r"x\sqrt"),
    ],
)
def test_equal_by_the_string_rules(one: str, other: str) -> None:
    assert is_equivalent(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3,250", "3250"),
        ("2/4", "1/2"),
        ("03/4", r"\frac{3}{4}"),
        ("0.25", r"\frac{1}{4}"),
        ("abc = 3", "3"),
        (r"x\sqrt", r"x \sqrt"),  # breaks a rule, so that both are compared unchanged
        (r"5\text{ cm}\text{ long}", "5"),
    ],
)
def test_different_by_the_string_rules(one: str, other: str) -> None:
    assert not is_equivalent(one, other)


def test_malformed_expressions() -> None:
    with pytest.raises(IndexError):
        clean_expression(r"\sqrt")
    with pytest.raises(ValueError, match="two units"):
        clean_expression(r"5\text{ cm}\text{ long}")
    assert clean_expression(r"\frac1") == r"\frac1"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is: 5. The answer is: $x$.\nMore.", "$x$"),
        ("The answer is: 1.5.", "1.5"),
        ("The answer is 5", None),
        ("The answer is: ", ""),
    ],
)
def test_metamath_answer_marker(text: str, found: str | None) -> None:
    assert find_meta_math_expression(text) == found


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("x = 5", "5"),
        (r"$\text{even}$", "even"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"2\pi cm", r"2\pi"),
        (r"\left(1,2\right)", r"\left(1,2\right)"),
        ("100,000", "100000"),
        ("0,1", "0,1"),
        (r"\sqrt[3]8", r"\sqrt[3]{8}"),
        ("12 square feet", "12"),
    ],
)
def test_minerva_answer_format(answer: str, normal: str) -> None:
    assert normalize_minerva(answer) == normal


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        (r"So it is \boxed{0.5}", {"math_equivalence", "math_verify"}),
        ("1/2", {"math_equivalence", "math_verify"}),
        ("The answer is: 1/2.", {"math_metamath", "math_verify"}),
        ("Final Answer: The final answer is $0.5$. I hope it is correct.", {"math_minerva", "math_verify"}),
        (r"Final Answer: The final answer is $\frac12$. I hope", {"math_verify"}),
        (r"So it is \boxed{\frac{2}{4}}", {"math_verify"}),
        ("three", set()),
        ("", set()),
    ],
)
def test_each_metric_extracts_the_answer_like_its_source(prediction: str, right: set[str]) -> None:
    pytest.importorskip("math_verify")
    names = ("math_equivalence", "math_metamath", "math_minerva", "math_verify")
    scores = {name: compute_metric(name, [prediction], [GOLD], 1) for name in names}
    assert {name for name, score in scores.items() if score} == right
    bare = {name: compute_metric(name, [prediction], [r"\frac{1}{2}"], 1) for name in names}
    assert bare == scores, "a reference is a solution, or its answer alone"


def test_answers_sympy_cannot_parse_are_compared_as_text() -> None:
    pytest.importorskip("antlr4")
    said = "Final Answer: The final answer is {}. I hope it is correct."
    minerva = load_metric("math_minerva")
    answers = [said.format(each) for each in ("$(1,2]$", "$(1, 3]$", r"$\frac$", "$x<2$", "$1+x$")]
    golds = ["(1,2]", "(1,2]", "1", "x<3", "x+1"]
    assert list(minerva.score_rows(answers, golds)) == [1, 0, 0, 0, 1]


def test_rules_compared_on_real_answers() -> None:
    """A symbolic grader judged them; every disagreement of a rule is listed here, answer by answer."""
    pytest.importorskip("math_verify")
    if not SCORED.is_file():
        pytest.skip(f"MATH's scored answers are not in {SCORED.parent} (LORA_NS_REAL_DATA)")
    rows = [json.loads(line) for line in SCORED.read_text("utf-8").splitlines()]
    assert len(rows) == 800
    found = {}
    for name in ("math_equivalence", "math_verify"):
        scores = load_metric(name).score_rows([row["response"] for row in rows], [row["gold"] for row in rows])
        different = [row for row, score in zip(rows, scores, strict=True) if bool(score) != row["right"]]
        found[name] = scores.sum(), Counter((row["gold"], row["extracted"]) for row in different)
    commas = {("900,000,000", "900000000"): 8, ("3,250", "3250"): 8, ("50,625", "50625"): 4}
    assert found["math_equivalence"] == (708, commas), "it treats commas as part of the answer"
    assert found["math_verify"] == (729, {("10{,}000", "10000"): 1})
