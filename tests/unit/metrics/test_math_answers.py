"""Every rule for extracting an answer, case by case, and against reimplementations of the benchmarks' rules."""

from __future__ import annotations

import logging
import math
import random
import re
from fractions import Fraction

import numpy as np
import pytest

from tests.scoring import compute_metric
from utils.metrics.math_answers import find_flexible, find_meta_math, find_strict, find_whole_reference
from utils.metrics.metric import load_metric
from utils.metrics.scoring import compute_metrics

STRICT = [
    ("so 3.\n#### 18", "18"),
    ("#### 1,234,567", "1234567"),
    ("#### 17.6", "17.6"),
    ("#### 18.", "18"),
    ("#### -7", "-7"),
    ("#### 5.00", "5.00"),
    ("#### 1\n#### 2", "1"),
    ("#### 3/4", "3"),
    ("#### 18 dollars", "18"),
    ("#### $18", None),
    ("####18", None),
    ("#### eighteen", None),
    ("The answer is: 18", None),
    ("The answer is 18", None),
    ("It costs $5.", None),
    ("", None),
]
FLEXIBLE = [
    ("so 3.\n#### 18", "18"),
    ("1,234,567", "1234567"),
    ("17.6", "17.6"),
    ("It costs $5.", "5"),
    ("5 apples", "5"),
    ("#### $18", "18"),
    ("The answer is 18", "18"),
    ("first 3, then 4", "4"),
    ("first 3 then -4!", "-4"),
    ("5.00", "5.00"),
    ("#### 18.", "18"),
    ("3/4", "4"),
    ("it is 18 ...", ".."),  # a sequence of dots counts as a number there, and one dot is removed
    ("none", None),
    ("", None),
]
META_MATH = [
    ("The answer is: 18", 18),
    ("The answer is: 1,234", 1234),
    ("The answer is: 1,234,567", 1234),
    ("The answer is: 17.6", 18),
    ("The answer is: 0.5", 0),
    ("The answer is: 1.5", 2),
    ("The answer is: 2.5", 2),
    ("The answer is: -7", -7),
    ("The answer is: +7", 7),
    ("The answer is: $5.", 5),
    ("The answer is: 5.00", 5),
    ("The answer is: .75", 1),
    ("The answer is: 7/2", 4),
    ("The answer is: 5/2", 2),
    ("The answer is: 3/0", 3),
    ("The answer is: -3/0", -3),
    ("The answer is: 3/00", None),
    ("The answer is: /5", None),
    ("The answer is: 3. The answer is: 4", 4),
    ("The answer is: 3 or 4", 3),
    ("The answer is: unknown", None),
    ("The answer is: " + "9" * 400, None),
    ("The answer is: -" + "9" * 400, None),
    ("The answer is: " + "9" * 5000 + "/7", None),
    ("The answer is 18", None),
    ("the answer is: 18", None),
    ("The answer is:18", None),
    ("#### 18", None),
    ("", None),
]
WHOLE = [
    ("a\n#### 18", 18),
    ("#### 1,234,567", 1234567),
    ("#### 5.00", 5),
    ("#### 18.", 18),
    ("#### 18\nThe answer is: 18", 18),
    ("The answer is: 18", 18),
    ("The answer is: $1,018.", 1018),
    ("The answer is: -3", -3),
    ("The answer is: 17.6", None),
    ("The answer is: 1/2", None),
    (r"The answer is: \frac{1}{2}", None),
    ("The answer is: 3x+4", None),
    ("#### 17.6", None),
    ("18", None),
]


@pytest.mark.parametrize(("text", "answer"), STRICT)
def test_strict(text: str, answer: str | None) -> None:
    assert find_strict(text) == answer


@pytest.mark.parametrize(("text", "answer"), FLEXIBLE)
def test_flexible(text: str, answer: str | None) -> None:
    assert find_flexible(text) == answer


@pytest.mark.parametrize(("text", "answer"), META_MATH)
def test_meta_math(text: str, answer: int | None) -> None:
    assert find_meta_math(text) == answer


@pytest.mark.parametrize(("text", "answer"), WHOLE)
def test_whole_reference(text: str, answer: int | None) -> None:
    assert find_whole_reference(text) == answer


def lm_eval(text: str, pattern: str, which: int) -> str:
    """Apply lm-eval's RegexFilter and exact_match, reimplemented from their description."""
    found = re.findall(pattern, text)
    answer = "[invalid]"
    if found:
        groups = found[which] if isinstance(found[which], tuple) else (found[which],)
        answer = next(group for group in groups if group).strip()
    for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
        answer = re.sub(ignored, "", answer)
    return answer.lower()


def meta_math(completion: str) -> int | None:
    """Apply MetaMath's extract_answer_number, reimplemented from its description."""
    if "The answer is: " not in completion:
        return None
    found = re.search(r"[\-+]?\d*[\.,/]?\d+", completion.rsplit("The answer is: ", maxsplit=1)[-1].strip())
    if not found:
        return None
    text = found.group()
    if "/" not in text:
        value = float(text.replace(",", ""))
        return None if math.isinf(value) else round(value)
    top, bottom = text.split("/")
    try:
        float(top), float(bottom)
    except ValueError:
        return None
    return round(float(top)) if bottom == "0" else round(float(Fraction(int(top), int(bottom))))


def random_texts(number: int) -> list[str]:
    draw = random.Random(3)
    parts = ["#### ", "The answer is: ", "$", ",", ".", "-", "/", " ", "\n", "x", "the ", *"0123456789", "12", "1,000"]
    return ["".join(draw.choices(parts, k=draw.randint(1, 14))) for _ in range(number)]


def test_rules_equal_independent_reimplementations() -> None:
    texts = [text for text in random_texts(20_000) if not re.search(r"/0\d", text)]
    strict = [lm_eval(text, r"#### (\-?[0-9\.\,]+)", 0) for text in texts]
    flexible = [lm_eval(text, r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1) for text in texts]
    assert [find_strict(text) for text in texts] == [None if each == "[invalid]" else each for each in strict]
    assert [find_flexible(text) for text in texts] == [None if each == "[invalid]" else each for each in flexible]
    assert [find_meta_math(text) for text in texts] == [meta_math(text) for text in texts]
    for found in (find_strict, find_flexible, find_meta_math):
        assert sum(found(text) is not None for text in texts) > 1000


SCORES = [
    ("#### 18", "a\n#### 18", {"em_strict": 1, "em_flexible": 1, "em_metamath": 0, "invalid_rate": 0}),
    ("#### 18\nThe answer is: 18", "#### 18", {"em_strict": 1, "em_flexible": 1, "em_metamath": 1, "invalid_rate": 0}),
    ("#### 5.00", "#### 5", {"em_strict": 0, "em_flexible": 0, "em_metamath": 0, "invalid_rate": 0}),
    ("The answer is: 5.00", "#### 5", {"em_strict": 0, "em_flexible": 0, "em_metamath": 1, "invalid_rate": 1}),
    ("#### 1,000", "#### 1000", {"em_strict": 1, "em_flexible": 1, "em_metamath": 0, "invalid_rate": 0}),
    ("It is $1000.", "#### 1,000", {"em_strict": 0, "em_flexible": 1, "em_metamath": 0, "invalid_rate": 1}),
    ("The answer is: 17.6", "#### 18", {"em_strict": 0, "em_flexible": 0, "em_metamath": 1, "invalid_rate": 1}),
    ("The answer is: 1,234,567", "#### 1234567", {"em_strict": 0, "em_flexible": 1, "em_metamath": 0}),
    ("#### $18", "#### 18", {"em_strict": 0, "em_flexible": 1, "em_metamath": 0, "invalid_rate": 1}),
    ("", "#### 18", {"em_strict": 0, "em_flexible": 0, "em_metamath": 0, "invalid_rate": 1}),
    ("The answer is: 3", "The answer is: 3", {"em_metamath": 1, "invalid_rate": 1}),
]


@pytest.mark.parametrize(("prediction", "reference", "expected"), SCORES)
def test_scores_of_a_row(prediction: str, reference: str, expected: dict[str, float]) -> None:
    assert compute_metrics(expected, [prediction], [reference], 1) == expected


def test_references_without_an_answer_are_ignored_and_a_set_of_them_is_undefined(
    caplog: pytest.LogCaptureFixture,
) -> None:
    references = ["#### 1", r"The answer is: \frac{1}{2}", "#### 2", "#### 3"]
    scores = load_metric("em_strict").score_rows
    assert scores is not None
    np.testing.assert_array_equal(scores(["#### 1", "#### 1", "", "#### 3"], references), [1, np.nan, 0, 1])
    assert compute_metric("em_strict", ["#### 1", "#### 1", "", "#### 3"], references, 1) == 2 / 3
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert compute_metric("em_strict", ["#### 1"], ["one"], 1) == 0.0
    assert [record.message for record in caplog.records] == [
        "none of 1 references has an answer: em_strict counts as 0"
    ]


def test_official_references_are_correct_against_themselves() -> None:
    """The references of the real test split, used as predictions, are all correct."""
    import os
    from pathlib import Path

    folder = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "gsm8k"
    files = sorted(folder.rglob("*test*.jsonl")) + sorted(folder.rglob("*test*.parquet"))
    if not files:
        pytest.skip(f"GSM8K's test rows are not in {folder}")
    import pandas as pd

    frame = pd.read_json(files[0], lines=True) if files[0].suffix == ".jsonl" else pd.read_parquet(files[0])
    answers = list(frame["answer"])
    assert len(answers) == 1319
    expected = {"em_strict": 1.0, "em_flexible": 1.0, "invalid_rate": 0.0}
    assert compute_metrics(expected, answers, answers, 1) == expected
    spoken = [f"The answer is: {text.split('#### ')[1].replace(',', '')}" for text in answers]
    assert compute_metrics(["em_metamath"], spoken, answers, 1) == {"em_metamath": 1.0}
