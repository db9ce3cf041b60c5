"""The evaluation section: its sets, their unique labels, and refused values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from utils.config.sections.evaluation import EvaluationSection, SetSection, TruthfulQASection, label_of


def test_by_default_the_runs_own_set_is_scored_at_the_end() -> None:
    section = EvaluationSection()
    assert (section.steps, section.at_end, section.sets, section.max_samples) == (None, True, None, None)
    assert section.set_sections is None
    assert (section.at_start, section.is_periodic) == (False, False)
    assert EvaluationSection(steps=5).is_periodic
    assert EvaluationSection(at_start=True).is_periodic
    assert (section.max_prompt_length, section.truthfulqa.scorer) == (None, "rougeL")


def test_the_scorer_of_truthfulqa() -> None:
    assert EvaluationSection.model_validate({"truthfulqa": {"scorer": "bleurt"}}).truthfulqa.scorer == "bleurt"
    with pytest.raises(ValidationError, match="'rougeL' or 'bleurt'"):
        EvaluationSection.model_validate({"truthfulqa": {"scorer": "bleu"}})


def test_sets_are_names_or_mappings() -> None:
    entries = ["gsm8k", {"name": "gsm8k", "path": "x.jsonl", "label": "unseen", "split": "train[:5]"}]
    section = EvaluationSection.model_validate({"sets": entries})
    assert section.set_sections == (
        SetSection(name="gsm8k"),
        SetSection(name="gsm8k", path="x.jsonl", label="unseen", split="train[:5]"),
    )
    assert [each.resolved_label for each in section.set_sections] == ["gsm8k", "unseen"]
    assert section.model_dump()["sets"][0] == "gsm8k"


@pytest.mark.parametrize(
    ("name", "label"),
    [("openai/gsm8k", "gsm8k"), ("data/test.jsonl", "test"), ("./my set/", "my_set"), ("a.b", "a.b"), ("...", "set")],
)
def test_labels_are_valid_folder_names(name: str, label: str) -> None:
    assert label_of(name) == label


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sets": ["gsm8k", "openai/gsm8k"]}, "two sets are called gsm8k; give one of them another label"),
        ({"sets": [{"name": "gsm8k", "label": "../x"}]}, "label: '../x' is not fit for a folder's name"),
        ({"sets": [{"name": "gsm8k", "metrics": ["em_strct"]}]}, "em_strct.*em_strict"),
        ({"sets": [{"name": "gsm8k", "metrics": ["accuracy"]}]}, "no metric of generated texts called accuracy"),
        ({"sets": []}, "at least 1"),
        ({"sets": [{"path": "x.jsonl"}]}, "each set needs a name"),
        ({"sets": [{"name": "gsm8k", "splitt": "x"}]}, r"unknown key splitt; did you mean split\?"),
        ({"sets": [3]}, "3 is neither the name of a set nor a mapping that has one"),
        ({"sets": [""]}, "name: is empty; give a value"),
        ({"sets": 5}, "valid list"),
        ({"sets": [{"name": "qmsum", "max_new_tokens": 0}]}, "max_new_tokens: Input should be greater than or equal"),
        ({"sets": [{"name": "qmsum", "max_samples": 0}]}, "max_samples: Input should be greater than or equal"),
        ({"max_prompt_length": 0}, "greater than or equal to 1"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"max_samples": 0}, "greater than or equal to 1"),
        ({"setz": ["gsm8k"]}, "setz"),
    ],
)
def test_wrong_values(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluationSection.model_validate(wrong)


def test_a_mistake_in_a_set_is_reported_in_one_sentence() -> None:
    with pytest.raises(ValidationError) as caught:
        EvaluationSection.model_validate({"sets": ["gsm8k", {"name": "x", "metrics": ["em_strct"]}]})
    [details] = caught.value.errors()
    sentence = "metrics: no metric of generated texts called em_strct; did you mean em_strict?"
    assert (details["loc"], str(details["ctx"]["error"])) == (("sets",), sentence)


def test_every_field_is_described() -> None:
    fields = [
        field for kind in (EvaluationSection, SetSection, TruthfulQASection) for field in kind.model_fields.values()
    ]
    assert all(info.description for info in fields)


def test_one_set_needs_no_list():
    assert EvaluationSection(sets="gsm8k").sets == EvaluationSection(sets=["gsm8k"]).sets == ["gsm8k"]
    assert EvaluationSection(sets={"name": "gsm8k", "split": "train"}).set_sections[0].split == "train"
