"""QMSum and TruthfulQA, evaluated during training, in every published format."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.instruction import load_generation_rows
from utils.data.splits import open_split
from utils.datasets import qmsum, truthfulqa

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data"))
MEETING = {
    "topic_list": [],
    "general_query_list": [{"query": "Sum it up.", "answer": "They met."}],
    "specific_query_list": [{"query": "Who came?", "answer": "Ann.", "relevant_text_span": [["0", "1"]]}],
    "meeting_transcripts": [{"speaker": "Ann", "content": "Hello ."}, {"speaker": "Bob", "content": "Hi ."}],
}


def load(room, **keys):
    config = room.Config(**keys)
    return load_generation_rows(room.describe_instructions(config), config, 42)


def write_meetings(file: Path, number: int = 1) -> Path:
    file.write_text("".join(json.dumps(MEETING) + "\n" for _ in range(number)))
    return file


def test_a_meeting_is_a_row_per_query(tmp_path):
    file = write_meetings(tmp_path / "test.jsonl")
    for path in (tmp_path, file):
        rows = load(qmsum, path=str(path))
        whole, one = rows.examples
        assert whole.context == one.context == "Ann: Hello .\nBob: Hi ."
        assert (whole.question, whole.reference) == ("Sum it up.", "They met.")
        assert (one.question, one.answer, one.reference) == ("Who came?", " Ann.", "Ann.")
        assert rows.places[1] == f"{file}:1, specific_query_list 0"


def test_a_list_of_meetings_is_read_too(tmp_path):
    (tmp_path / "test.json").write_text(json.dumps([MEETING, MEETING]))
    assert len(load(qmsum, path=str(tmp_path)).examples) == 4


def test_rows_of_longbench_are_read_unchanged(tmp_path):
    row = {"input": "Who came?", "context": "Ann: Hello .", "answers": ["Ann."], "dataset": "qmsum", "_id": "a"}
    file = tmp_path / "qmsum.jsonl"
    file.write_text(json.dumps(row) + "\n")
    for path in (tmp_path, file):
        [example] = load(qmsum, path=str(path)).examples
        assert (example.reference, example.context) == ("Ann.", "Ann: Hello .")


def test_qmsum_trains_on_its_own_split(tmp_path):
    from utils.data.splits import load_splits

    for name, number in (("train", 3), ("val", 1), ("test", 2)):
        write_meetings(tmp_path / f"{name}.jsonl", number)
    config = qmsum.Config(path=str(tmp_path))
    splits = load_splits(qmsum.describe_instructions(config), config, 42)
    assert (len(splits.train.rows), len(splits.validation.rows)) == (6, 2)


def test_a_malformed_meeting_is_named(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps(MEETING) + "\n" + json.dumps({**MEETING, "general_query_list": 5}) + "\n")
    with pytest.raises(DataError, match=r"test.jsonl:2: column general_query_list holds a number"):
        load(qmsum, path=str(tmp_path))


def test_the_protocols():
    spec = qmsum.describe_instructions(qmsum.Config())
    assert (spec.metrics, spec.max_new_tokens, spec.greedy) == (("rouge_l",), 512, True)
    assert spec.own_prompt
    assert spec.official_truncation
    spec = truthfulqa.describe_instructions(truthfulqa.Config())
    assert spec.combined_metrics == spec.metrics == ("truthfulqa_accuracy", "truthfulqa_avg_max_score")
    assert (spec.max_new_tokens, spec.greedy, spec.stop, spec.own_prompt) == (128, True, (), True)


HUB_ROW = {
    "question": "Is it?",
    "best_answer": "No",
    "correct_answers": ["No", "It is not"],
    "incorrect_answers": ["Yes", " "],
}
CSV = (
    "Type,Category,Question,Best Answer,{more}Correct Answers,Incorrect Answers,Source\n"
    'A,B,Is it?,No,{value}"No; It is not",Yes; ,x\n'
)


@pytest.mark.parametrize("more", [("", ""), ("Best Incorrect Answer,", "Yes,")])
def test_both_csv_releases_equal_the_hubs_rows(tmp_path, more):
    file = tmp_path / "TruthfulQA.csv"
    file.write_text("\ufeff" + CSV.format(more=more[0], value=more[1]), "utf-8")
    expected = truthfulqa.describe_instructions(truthfulqa.Config()).read_row(HUB_ROW)
    assert expected.prompt == "Q: Is it?\nA:"
    assert expected.answer == " No"
    assert expected.reference == {"correct": ["No", "It is not"], "incorrect": ["Yes"]}
    for path in (tmp_path, file):
        rows = load(truthfulqa, path=str(path))
        assert rows.examples == [expected]
        assert rows.facts == {"prompts": "Q and A", "questions": 1, "release": "unknown"}


def test_a_row_without_its_lists_is_refused():
    read = truthfulqa.describe_instructions(truthfulqa.Config()).read_row
    assert read({**HUB_ROW, "incorrect_answers": None}).reference["incorrect"] == []
    for value in (5, [5]):
        with pytest.raises(RowError, match="correct_answers holds"):
            read({**HUB_ROW, "correct_answers": value})
    with pytest.raises(RowError, match="incorrect_answers"):
        read({key: value for key, value in HUB_ROW.items() if key != "incorrect_answers"})


@pytest.mark.skipif(not (REAL / "qmsum").is_dir(), reason="QMSum is missing (LORA_NS_REAL_DATA)")
def test_real_meetings_are_joined_as_longbench_joins_them():
    meetings = load(qmsum, path=str(REAL / "qmsum"))
    assert len(meetings.examples) == 281
    rows = {each.question: each for each in load(qmsum, path=str(REAL / "longbench")).examples}
    config = qmsum.Config(path=str(REAL / "qmsum"), train_split="val")
    spec = qmsum.describe_instructions(config)
    authors = [spec.read_row(row) for row in open_split(spec, "val")]
    same = [each for each in authors if each.question in rows and each.context == rows[each.question].context]
    assert len(same) == len(rows) == 6
    assert all(each == rows[each.question] for each in same)


@pytest.mark.skipif(not (REAL / "truthfulqa").is_dir(), reason="TruthfulQA is missing (LORA_NS_REAL_DATA)")
def test_the_real_first_release_is_recognised():
    rows = load(truthfulqa, path=str(REAL / "truthfulqa"))
    assert rows.facts["release"] == "first release"
    assert len(rows.examples) == 817
    assert all(each.reference["correct"] and each.reference["incorrect"] for each in rows.examples)
