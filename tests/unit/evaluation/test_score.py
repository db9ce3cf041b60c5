"""Scores survive JSON unchanged, and scores of different work are not compared."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from utils.evaluation.score import SetScore, comparable, summarize_groups

SCORE = SetScore(
    label="gsm8k", metrics={"em_strict": 0.5}, interval={"em_strict": (0.4, 0.6)}, num_scored={"em_strict": 100},
    n=100, num_total=100, partial=False, protocol="p", prompt_hash="h", fingerprint="f",
    generation={"max_new_tokens": 256, "temperature": 0.0, "top_p": None, "top_k": None, "stop": []},
    mean_tokens=20.0, num_unfinished=1, seconds=3.0, tokens_per_s=600.0, identity={"model": "m"},
)  # fmt: skip


def test_scores_survive_a_json_round_trip() -> None:
    assert SetScore.from_dict(json.loads(json.dumps({"version": 1, **SCORE.to_dict()}))) == SCORE
    assert SCORE.to_dict()["shots"] == 0


def test_scores_of_the_same_work_are_comparable() -> None:
    other = dataclasses.replace(SCORE, metrics={"em_strict": 0.1}, seconds=9.0, identity={"model": "n"}, label="x")
    assert comparable(SCORE, other) is None
    assert comparable(SCORE.to_dict(), json.loads(json.dumps(other.to_dict()))) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"partial": True, "n": 10}, "one is partial (10 of 100 rows), the other is over all 100"),
        ({"n": 90, "num_total": 90}, "one is over 100 rows, the other over 90"),
        ({"protocol": "q"}, "they have different protocols: p and q"),
        ({"prompt_hash": "i"}, "they have different prompts: h and i"),
        ({"fingerprint": "g"}, "they have different rows: f and g"),
        ({"shots": 5}, "they have different numbers of examples in the prompt: 0 and 5"),
        ({"num_cut": 5}, "they have different numbers of prompts cut: 0 and 5"),
        ({"prompt_limit": 3500}, "they have different lengths that prompts were cut to: None and 3500"),
        ({"scorer": "bleurt"}, "they have different scorers: None and bleurt"),
        ({"generation": {**SCORE.generation, "min_new_tokens": 1}}, "generation.min_new_tokens 0 and 1"),
        ({"generation": {**SCORE.generation, "temperature": 0.7}}, "generation.temperature 0.0 and 0.7"),
        ({"generation": {**SCORE.generation, "max_new_tokens": 64}}, "generation.max_new_tokens 256 and 64"),
    ],
)
def test_reasons_why_scores_are_not_comparable(change: dict[str, Any], reason: str) -> None:
    other = dataclasses.replace(SCORE, **change)
    found = comparable(SCORE, other)
    assert found is not None
    assert reason in found
    assert comparable(other, SCORE) is not None


def test_code_scores_need_the_same_similarity_to_be_comparable() -> None:
    names = ("difflib", "levenshtein", None)
    difflib, levenshtein, older = (dataclasses.replace(SCORE, scorer=name) for name in names)
    assert comparable(difflib, older) is None, "earlier versions had only this one and did not record it"
    assert comparable(levenshtein, difflib) == "they have different scorers: levenshtein and difflib"
    assert comparable(levenshtein, older) == "they have different scorers: levenshtein and None"


def test_partial_scores_of_other_sizes_are_not_compared() -> None:
    small, large = (dataclasses.replace(SCORE, partial=True, n=n) for n in (10, 20))
    assert comparable(small, large) == "one is over 10 rows, the other over 20"
    assert comparable(small, small) is None


def test_scores_older_than_a_setting_are_comparable() -> None:
    older = {key: value for key, value in SCORE.to_dict().items() if key not in ("scorer", "prompt_limit", "facts")}
    newer = dataclasses.replace(SCORE, generation={**SCORE.generation, "min_new_tokens": 0})
    assert comparable(older, newer) is None
    assert SetScore.from_dict(older) == SCORE


def test_groups_of_rows_are_scored_separately() -> None:
    columns = {"em_strict": np.array([1, 0, np.nan, 1]), "rouge_l": np.array([0.5, 0.25, 1.0, 0.0])}
    groups = [{"level": "1"}, {"level": "2"}, {"level": "2"}, {}]
    found = summarize_groups(columns, groups)["level"]
    assert found["1"]["metrics"] == {"em_strict": 1.0, "rouge_l": 0.5}
    assert found["2"]["metrics"] == {"em_strict": 0.0, "rouge_l": 0.625}
    assert (found["2"]["n"], found["2"]["num_scored"]) == (2, {"em_strict": 1, "rouge_l": 2})
