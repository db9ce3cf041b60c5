"""Evaluation rows among the training rows are found by text and prompt, whatever the datasets are called."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset

from tests.documents import write_document
from utils.core.errors import DataError
from utils.data.dataset import Example, load_dataset_plugin
from utils.data.instruction import load_generation_rows
from utils.evaluation.contamination import check_leakage, find_leakage, warn_of_known_prompts

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data"))
NO_ROWS = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}])


LONG = "They talked about the budget and about the new remote control."
MEETING, OTHER = write_document(1, 900), write_document(2, 900)
ASKED = [
    Example(question="What about the budget?", answer=" Ann wants more.", context=MEETING),
    Example(question="Who came?", answer=" Ann.", context=MEETING),
    Example(question="What was said?", answer=LONG, context=OTHER),
    Example(question="", answer=" 46", context=write_document(3, 900)),
]


def make_set(examples, label="qmsum", own_prompt=True):
    return SimpleNamespace(
        label=label,
        prompts=[[9, 9]] * len(examples),
        references=[each.reference for each in examples],
        questions=[each.question or f"Read {each.context} and count." for each in examples],
        contexts=[each.context for each in examples],
        ids=[f"test.jsonl:{number + 1}" for number in range(len(examples))],
        own_prompt=own_prompt,
    )


def find(*train: Example):
    return [leak.describe() for leak in find_leakage(train, [make_set(ASKED)])]


@pytest.mark.parametrize(
    ("row", "rows", "documents"),
    [
        (Example(question="what about THE budget", answer="Ann wants more", context=write_document(9, 900)), 1, 0),
        (Example(question="Another?", answer=f" {LONG.upper()}"), 1, 0),
        (Example(question="Who came?", answer=" Bob.", context=MEETING), 0, 2),
        (Example(question="Who came?", answer=" Ann.", context=MEETING), 1, 1),
        (Example(question="", answer=" 46", context=ASKED[3].context), 1, 0),
        (Example(question="", answer=" 47", context=ASKED[3].context), 0, 1),
        (Example(prompt=f"Read: {MEETING}\nWho came?", answer=" Ann."), 0, 2),
        (Example(question="x", judged_by={"subset": "qmsum", "answers": ["a", LONG]}), 1, 0),
    ],
)
def test_a_row_or_its_document_is_found(row, rows, documents):
    assert find(row) == [{"set": "qmsum", "rows": rows, "documents": documents}]


def test_every_turn_of_a_conversation_is_searched():
    turns = ({"role": "user", "content": MEETING}, {"role": "assistant", "content": LONG})
    assert find(Example(messages=turns)) == [{"set": "qmsum", "rows": 1, "documents": 2}]


@pytest.mark.parametrize(
    "row",
    [
        Example(question="Who came?", answer=" Bob.", context=write_document(9, 900)),
        Example(question="Another?", answer=" Ann wants more.", context=write_document(9, 900)),
        Example(question="", answer=" 46", context=write_document(9, 900)),
        Example(answer="plain text without a prompt"),
        Example(question="Who came?", answer=""),
    ],
)
def test_equal_words_by_chance_are_not_contamination(row):
    assert find(row) == []


def test_truthful_answers_are_compared_one_by_one():
    judged = make_set([Example(question="Is it?", judged_by={"correct": ["No", "It is not"], "incorrect": ["Yes"]})])
    [leak] = find_leakage([Example(question="Is it?", answer=" It is not")], [judged])
    assert len(leak.rows) == 1
    assert find_leakage([Example(question="Is it?", answer=" Yes")], [judged]) == []


def check(train, sets, allow=None):
    return check_leakage(NO_ROWS, lambda: iter(train), sets, allow)


def test_trained_rows_are_refused_with_two_remedies():
    with pytest.raises(DataError) as error:
        check(ASKED[:2], [make_set(ASKED)])
    message = str(error.value)
    assert message.startswith("qmsum: 2 of its 4 rows are in the training rows, such as test.jsonl:1 ")
    assert "('What about the budget?')" in message
    assert "out of dataset.subsets" in message
    assert "dataset.allow_leakage: true" in message
    with pytest.raises(DataError):
        check(ASKED[:2], [make_set(ASKED)], allow=False)


def test_allowed_contamination_is_recorded(caplog):
    found = check(ASKED[:1], [make_set(ASKED), make_set(ASKED[2:], "other")], allow=True)
    assert found == [{"set": "qmsum", "rows": 1, "documents": 1}]
    assert "qmsum: 1 rows are trained on, 1 others are about documents that are" in caplog.text


def test_a_shared_document_is_reported_and_recorded_but_not_refused(caplog):
    asked = Example(question="Another?", answer=" Bob.", context=MEETING)
    assert check([asked], [make_set(ASKED)]) == [{"set": "qmsum", "rows": 0, "documents": 2}]
    assert "about documents that are" in caplog.text
    assert check([Example(question="a", answer="b")], [make_set(ASKED)]) == []


def test_sets_with_the_runs_prompt_give_a_warning(caplog):
    plain = make_set(ASKED, "plain", own_prompt=False)
    plain.prompts = [[1, 2], [5]]

    def never():
        raise AssertionError("the rows' texts are not needed")

    assert check_leakage(NO_ROWS, never, [plain], None) == [{"set": "plain", "rows": 1, "documents": 0}]
    assert "are in the training rows too" in caplog.text
    with pytest.raises(DataError, match="plain: 1 of its prompts"):
        check_leakage(NO_ROWS, never, [plain], False)
    assert check_leakage(NO_ROWS, never, [], None) == []


def test_a_contaminated_run_is_refused_before_training_unless_allowed(make_sft, tmp_path):
    """By the dataset's name or in the authors' own files: the rows' texts decide."""
    import json

    from utils.modeling.tokenizer import load_tokenizer
    from utils.tasks.task import open_task

    rows = [
        {"input": f"What about {number}?", "context": write_document(number, 60), "answers": [f"It is {number}."],
         "dataset": "qmsum", "_id": str(number)}
        for number in range(20)
    ]  # fmt: skip
    (tmp_path / "qmsum.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    turns = [{"speaker": "Ann", "content": rows[4]["context"]}]
    queries = [{"query": "What about 4", "answer": "It is 4"}, {"query": "And else?", "answer": "No."}]
    meeting = {"general_query_list": [], "specific_query_list": queries, "meeting_transcripts": turns}
    (tmp_path / "meetings.jsonl").write_text(json.dumps(meeting) + "\n")

    def prepare(**keys):
        config = make_sft(
            dataset={"name": "longbench", "path": str(tmp_path), "subsets": ["qmsum"], "validation_size": 0, **keys},
            sft={"max_length": 256},
            evaluation={"at_end": True, "sets": [{"name": "qmsum", "path": str(tmp_path / "meetings.jsonl")}]},
        )
        return open_task(config).prepare_data(load_tokenizer(config.model))

    for keys in ({}, {"max_train_samples": 1}, {"allow_leakage": False}):
        with pytest.raises(DataError, match="qmsum: 1 of its 2 rows are in the training rows"):
            prepare(**keys)
    assert prepare(allow_leakage=True).leakage == [{"set": "qmsum", "rows": 1, "documents": 0}]


def load(room, split=None, **keys):
    import dataclasses

    opened = load_dataset_plugin(room)
    config = opened.Config(**keys)
    spec = opened.describe_instructions(config)
    rows = load_generation_rows(dataclasses.replace(spec, generation_split=split or spec.generation_split), config, 1)
    return rows.examples


@pytest.mark.skipif(not (REAL / "longbench").is_dir(), reason="LongBench or QMSum is missing (LORA_NS_REAL_DATA)")
def test_real_rows_of_longbench_are_found_among_the_authors_meetings():
    meetings = make_set(load("qmsum", "validation", path=str(REAL / "qmsum")))
    path = str(REAL / "longbench")
    [leak] = find_leakage(load("longbench", path=path, subset="qmsum", validation_size=0), [meetings])
    assert len(leak.rows) == 6
    assert len(leak.documents) > 30, "the meetings have other questions too"
    news = load("longbench", path=path, subsets=["multi_news", "gov_report"], validation_size=0)
    assert find_leakage(news, [meetings]) == []


@pytest.mark.skipif(not (REAL / "longbench").is_dir(), reason="LongBench is missing (LORA_NS_REAL_DATA)")
def test_every_real_subset_is_refused_as_its_own_evaluation_set():
    rows = load("longbench", path=str(REAL / "longbench"), validation_size=0)
    for name in {each.reference["subset"] for each in rows}:
        same = [each for each in rows if each.reference["subset"] == name]
        [leak] = find_leakage(same, [make_set(same)])
        assert len(leak.rows) == len(same), name


def _rows(*prompts):
    answer = [7, 8]
    return Dataset.from_list(
        [{"input_ids": [*each, *answer], "labels": [-100] * len(each) + answer} for each in prompts]
    )


def test_the_prompt_ends_before_the_first_trained_token(caplog):
    train = _rows([1, 2, 3], [1, 2], [4])
    own = SimpleNamespace(label="own", prompts=[[1, 2], [4, 4], [4]])
    other = SimpleNamespace(label="other", prompts=[[1], [9]])
    assert warn_of_known_prompts(train, [own, other]) == {"own": 2}
    assert "own: 2 of 3 prompts are in the training rows too" in caplog.text
    assert "other" not in caplog.text


def test_without_evaluation_sets_nothing_is_read():
    assert warn_of_known_prompts(_rows([1]), []) == {}
