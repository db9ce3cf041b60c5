"""Held-out rows: chosen by seed and by group, and never among the training rows."""

from __future__ import annotations

from itertools import count

import pytest

from utils.core.errors import DataError
from utils.data.instruction import load_generation_rows
from utils.data.splits import load_splits
from utils.datasets import custom, metamathqa


def family(number: int, size: int) -> list[dict[str, str]]:
    """Make rows that rephrase one question."""
    return [
        {"query": f"Question {number}, told {n}", "original_question": f"Question {number}", "response": f"{number}"}
        for n in range(size)
    ]


@pytest.fixture
def load(write_lines):
    """Return a function that writes MetaMathQA rows and splits them."""

    numbers = count()

    def run(rows, seed=42, **keys):
        section = metamathqa.Config(path=str(write_lines(f"rows{next(numbers)}.jsonl", rows)), **keys)
        return load_splits(metamathqa.describe_instructions(section), section, seed)

    return run


def queries(split, positions):
    return [example.question for example in split.examples(positions)]


def originals(splits):
    """Return the original questions of both sides."""
    sides = (splits.train_positions, splits.validation_positions)
    return [{splits.train.rows[position]["original_question"] for position in side} for side in sides]


def test_no_question_is_in_both_splits(load):
    splits = load([row for number in range(100) for row in family(number, 10)], validation_size=20)
    train, validation = originals(splits)
    assert not train & validation
    assert len(splits.validation_positions) == 20
    assert len(splits.train_positions) + 20 + splits.num_related == 1000


def test_held_out_rows_come_from_many_questions_within_limits(load):
    rows = [row for number in range(100) for row in family(number, 10)]
    splits = load(rows, validation_size=5)
    assert len(originals(splits)[1]) == 5, "one row each of five questions"
    assert splits.num_related == 45
    splits = load(rows, validation_size=50)
    assert len(originals(splits)[1]) == 5, "at most 5 % of the rows leave training: five questions"
    assert splits.num_related == 0
    splits = load(rows, validation_size=0.2)
    assert (len(splits.validation_positions), len(splits.train_positions)) == (200, 800)


def test_rows_with_a_held_out_prompt_leave_training_too(load):
    rows = [row for number in range(40) for row in family(number, 1)]
    twins = [{**row, "original_question": f"Other {n}", "query": row["query"] + " "} for n, row in enumerate(rows)]
    splits = load(rows + twins, validation_size=10)
    train = {query.strip() for query in queries(splits.train, splits.train_positions)}
    validation = {query.strip() for query in queries(splits.train, splits.validation_positions)}
    assert len(splits.validation_positions) == 10
    assert not train & validation


def test_the_hold_out_depends_only_on_seed_and_rows(load, prepare_set, write_lines):
    rows = [row for number in range(60) for row in family(number, 2)]
    splits = load(rows, validation_size=6)
    held_out = queries(splits.train, splits.validation_positions)
    assert queries(splits.train, load(rows, validation_size=6).validation_positions) == held_out
    other = load(rows, seed=7, validation_size=6)
    assert queries(other.train, other.validation_positions) != held_out
    turned = load(rows[::-1], validation_size=6)
    assert originals(turned)[1] == originals(splits)[1], "the order of the rows does not matter"
    file = write_lines("rows.jsonl", rows)
    for limit in (None, 10, 3):
        data = prepare_set("metamathqa", file, validation_size=6, max_train_samples=limit)
        assert [example.question for example in data.validation_examples] == held_out
        lines = [splits.train.place(position).rpartition(":")[2] for position in splits.validation_positions]
        assert data.validation_places == [f"{file}:{line}" for line in lines]
    section = metamathqa.Config(path=str(file), validation_size=6)
    answered = load_generation_rows(metamathqa.describe_instructions(section), section, 42)
    assert [example.question for example in answered.examples] == held_out
    assert (answered.split, answered.num_total) == ("validation", 6)


def test_adding_rows_keeps_most_rows_in_their_split(load):
    rows = [row for number in range(200) for row in family(number, 1)]
    before = originals(load(rows[:190], validation_size=20))[1]
    after = originals(load(rows, validation_size=20))[1]
    assert len(before & after) >= 15


def test_rows_of_one_prompt_are_grouped_by_answer(write_lines):
    file = write_lines("rows.jsonl", [{"topic": "a story", "answer": f"Story {n}"} for n in range(20)])
    section = custom.Config(path=str(file), prompt_template="Write {topic}.", answer_column="answer", validation_size=4)
    splits = load_splits(custom.describe_instructions(section), section, 42)
    assert (len(splits.train_positions), len(splits.validation_positions)) == (16, 4)


@pytest.mark.parametrize("size", [40, 500, 0.999])
def test_an_empty_training_split_is_refused(load, size):
    with pytest.raises(DataError, match=r"dataset\.validation_size leaves none of the 40 rows"):
        load([row for number in range(4) for row in family(number, 10)], validation_size=size)


def test_no_hold_out_when_switched_off(load):
    splits = load(family(1, 5), validation_size=0)
    assert splits.validation is None
    assert len(splits.train_positions) == 5


def test_a_datasets_own_validation_split_is_used(make_set, prepare_set, caplog):
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(10)]
    folder = make_set(train=rows, validation=[*rows[:2], {"prompt": "new", "completion": "c"}])
    data = prepare_set("custom", folder, validation_size=3)
    assert len(data.train) == 10
    assert len(data.evals[""]) == 3
    assert data.reports["validation"].shared_with_train == 2
    assert "validation_size has no effect" in caplog.text
    assert "2 rows whose prompt is in the training rows too" in caplog.text


def test_a_separate_validation_file(write_lines, prepare_set):
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(4)]
    train, other = write_lines("a.jsonl", rows), write_lines("b.jsonl", rows[:1])
    data = prepare_set("custom", train, validation_path=str(other))
    assert (len(data.train), len(data.evals[""])) == (4, 1)
    assert data.validation_places == [f"{other}:1"]


def test_missing_splits_are_named(make_set, prepare_set, caplog):
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(4)]
    folder = make_set(train=rows)
    assert prepare_set("custom", folder).evals == {}
    with pytest.raises(DataError, match=r"no split called held \(dataset\.validation_split\)"):
        prepare_set("custom", folder, validation_split="held")
    with pytest.raises(DataError, match="no split called other"):
        prepare_set("custom", folder, train_split="other", format="prompt_completion")
    for keys, message in (({}, "no rows to answer"), ({"test_split": "test"}, "no split called test")):
        section = custom.Config(path=str(folder), **keys)
        with pytest.raises(DataError, match=message):
            load_generation_rows(custom.describe_instructions(section), section, 42)
