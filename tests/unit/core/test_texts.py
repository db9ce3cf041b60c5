"""Prompt templates, column texts, and split names."""

from __future__ import annotations

import pytest

from utils.core.texts import PromptTemplate, RowError, cut_range, join_answer, parse_split, read_text


def test_a_template_inserts_columns_and_keeps_doubled_braces():
    template = PromptTemplate.parse("{{x}} {a}\n{b} {a}:")
    assert template.columns == ("a", "b")
    assert template.render({"a": "one", "b": 2, "c": None}) == "{x} one\n2 one:"


def test_braces_in_a_rows_text_are_not_placeholders():
    assert PromptTemplate.parse("{a}").render({"a": "{b} {{"}) == "{b} {{"


def test_a_column_may_have_a_space_in_its_name():
    assert PromptTemplate.parse("{the question}?").render({"the question": "Why"}) == "Why?"


@pytest.mark.parametrize("template", ["{", "a } b", "{}", '{"a": 1}', "{a:>10}", "{a!r}"])
def test_an_unknown_column_is_refused_with_a_hint(template):
    with pytest.raises(ValueError, match=r"write \{\{ and \}\}"):
        PromptTemplate.parse(template)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"b": "x"}, "no column a; there are: b"),
        ({"a": None}, r"column a holds nothing \(null\) instead of a text"),
        ({"a": 1.5}, "column a holds a number"),
        ({"a": True}, "column a holds true or false"),
        ({"a": ["x"]}, "column a holds a list"),
        ({"a": {"x": 1}}, "column a holds an object"),
    ],
)
def test_values_that_are_not_text_are_named(row, reason):
    with pytest.raises(RowError, match=reason):
        PromptTemplate.parse("{a}").render(row)
    with pytest.raises(RowError, match=reason):
        read_text(row, "a")


@pytest.mark.parametrize(
    ("prompt", "answer", "joined"),
    [("Answer:", "5", " 5"), ("Answer: ", "5", "5"), ("Answer:\n", "5", "5"), ("Answer:", " 5", " 5"), ("", "5", "5")],
)
def test_prompt_and_answer_are_separated(prompt, answer, joined):
    assert join_answer(prompt, answer) == joined


@pytest.mark.parametrize(
    "split", ["train", "train[:5]", "train[-3:]", "train[10%:20%]", "train[2:4]", "train[:]", "train[:-10%]"]
)
def test_splits_are_sliced_like_the_datasets_library(split, tmp_path):
    from datasets import load_dataset

    (tmp_path / "train.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(37)))
    expected = load_dataset("json", data_files={"train": str(tmp_path / "train.jsonl")}, split=split)["n"][:]
    name, first, last = parse_split(split)
    assert name == "train"
    assert list(cut_range(37, first, last)) == expected


@pytest.mark.parametrize("split", ["train[5]", "train[:5", "train[a:b]", "train[:5]x", "[:5]", ""])
def test_invalid_splits_are_refused(split):
    with pytest.raises(ValueError, match="is not a split"):
        parse_split(split)
