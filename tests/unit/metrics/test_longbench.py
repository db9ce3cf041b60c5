"""LongBench: each score by hand, a whole run against the official scorer, and errors of its command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.cli.command_line import run_cli
from utils.core.errors import DataError
from utils.metrics.longbench import (
    Prediction,
    average_by_category,
    build,
    main,
    read_predictions,
    score_subset,
    score_subset_by_length,
)
from utils.metrics.longbench_score import SUBSET_METRICS, score_code_similarity, score_prediction
from utils.metrics.metric import load_metric

ROOT = Path(__file__).parents[3]
REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "longbench_scored"

BEIJING = "\u5317\u4eac"
TSINGHUA = "\u6e05\u534e\u5927\u5b66"
I_CAME_TO = "\u6211\u6765\u5230"  # two words, I and came to
PARAGRAPH = "\u6bb5\u843d"
OPENING, CLOSING, COMMA, STOP = "\u300a", "\u300b", "\uff0c", "\u3002"


def write(folder: Path, subset: str, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = folder / f"{subset}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(pred: str = "cat", *answers: str, **others: object) -> dict[str, object]:
    return {"pred": pred, "answers": list(answers or ("cat",)), "all_classes": None, "length": 10, **others}


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("The Cat sat!", "a cat", 2 / 3),
        ("cat cat dog", "cat cat", 0.8),
        ("don't", "dont", 1.0),
        ("", "cat", 0.0),
        ("the", "a", 0.0),
        (BEIJING, BEIJING[0], 0.0),
    ],
)
def test_qa_f1(prediction: str, answer: str, expected: float) -> None:
    assert score_prediction("hotpotqa", prediction, [answer]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        (I_CAME_TO + BEIJING + TSINGHUA, BEIJING + COMMA + TSINGHUA + STOP, 2 / 3),
        ("ABC" + STOP, "abc", 1.0),
        (BEIJING + CLOSING, BEIJING, 1.0),
        (OPENING + BEIJING, BEIJING, 2 / 3),  # the official list of punctuation lacks the opening bracket
        (STOP, BEIJING, 0.0),
    ],
)
def test_qa_f1_of_chinese(prediction: str, answer: str, expected: float) -> None:
    assert score_prediction("multifieldqa_zh", prediction, [answer]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("the cat. the dog", "the dog ran", 2 / 3),  # the + the dog, of three distinct words each
        ("a a a", "a", 1.0),
        ("b a", "a b", 0.5),
        ("The", "the", 0.0),
        ("cat,", "cat", 0.0),
        ("", "cat", 0.0),
        ("...", "cat", 0.0),
        ("cat", ".", 0.0),
    ],
)
def test_rouge(prediction: str, answer: str, expected: float) -> None:
    assert score_prediction("qmsum", prediction, [answer]) == pytest.approx(expected, abs=1e-7)


def test_rouge_of_a_sentence_longer_than_the_recursion_limit() -> None:
    text = " ".join(f"w{number}" for number in range(sys.getrecursionlimit() + 100))
    assert score_prediction("qmsum", text, [text]) == pytest.approx(1, abs=1e-7)


def test_rouge_equals_the_rouge_packages() -> None:
    """The file holds short texts with the scores of package rouge 1.0.1."""
    pairs = json.loads((Path(__file__).parent / "rouge_package_scores.json").read_text("utf-8"))
    assert len(pairs) == 200
    assert len({score for *_, score in pairs}) > 50
    for prediction, answer, score in pairs:
        assert score_prediction("qmsum", prediction, [answer]) == score


def test_rouge_of_chinese_counts_words() -> None:
    assert score_prediction("vcsum", I_CAME_TO + BEIJING, [BEIJING]) == pytest.approx(0.5, abs=1e-7)
    assert score_prediction("qmsum", I_CAME_TO + BEIJING, [BEIJING]) == 0


@pytest.mark.parametrize(
    ("prediction", "classes", "expected"),
    [
        ("Date", ["Date", "Food"], 1.0),
        ("Date or Food", ["Date", "Food"], 0.5),
        ("Food", ["Date", "Food"], 0.0),
        ("date", ["Date", "Food"], 0.0),
        ("Date\nFood", ["Date", "Food"], 1.0),
        ("", ["Date", "Food"], 0.0),
    ],
)
def test_classification(prediction: str, classes: list[str], expected: float) -> None:
    assert score_prediction("trec", prediction, ["Date"], classes) == expected


def test_classification_skips_the_class_after_a_removed_one() -> None:
    answer = "Food or drink"
    assert score_prediction("trec", answer, [answer], ["Food", answer, "drink"]) == 1.0
    assert score_prediction("trec", answer, [answer], ["Food", "drink", answer]) == 0.5


@pytest.mark.parametrize(
    ("subset", "prediction", "answer", "expected"),
    [
        ("passage_retrieval_en", "Paragraph 3", "Paragraph 3", 1.0),
        ("passage_retrieval_en", "3 or 4", "Paragraph 3", 0.5),
        ("passage_retrieval_en", "Paragraph 30", "Paragraph 3", 0.0),
        ("passage_retrieval_en", "none", "Paragraph 3", 0.0),
        ("passage_retrieval_zh", f"{PARAGRAPH}7, 8, 9", f"{PARAGRAPH}7", 1 / 3),
        ("passage_count", "5 of 5, not 6", "5", 2 / 3),
        ("passage_count", "five", "5", 0.0),
    ],
)
def test_numbers(subset: str, prediction: str, answer: str, expected: float) -> None:
    assert score_prediction(subset, prediction, [answer]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("\n# a comment\n// one\n```\nx = 1\ny = 2", "x = 1", 1.0),
        ("abcd", "bcde", 0.75),
        ("abc", "abd", 0.67),  # 2 * 2 / 6 in whole hundredths
        ("# only this", "x", 0.0),
        ("# only this", "", 1.0),
        (" x = 1", "x = 1", 0.91),
    ],
)
def test_code_similarity(prediction: str, answer: str, expected: float) -> None:
    assert score_prediction("lcc", prediction, [answer]) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "percent"),
    [
        ("return x", "return x + 1", 80),
        ("for i in range(10):", "while True:", 33),
        ("aaaaaaab", "baaaaaaa", 88),
        ("\u4e2d\u6587", "\u6587", 67),
        ("x=1", "x = 1", 75),
        ("abc", "xyz", 0),
        ("", "x", 0),
        ("", "", 100),
    ],
)
def test_code_similarity_by_insertions_and_deletions(prediction: str, answer: str, percent: int) -> None:
    """The values are rapidfuzz 3.14.6's, in whole percents."""
    assert score_code_similarity(prediction, answer, "levenshtein") == percent / 100


@pytest.mark.parametrize(("subset", "percent"), [("lcc", 56.88), ("repobench-p", 51.6)])
def test_insertion_deletion_similarity_of_real_code(subset: str, percent: float) -> None:
    """By rapidfuzz; difflib gives the official 54.57 and 48.74."""
    if not REAL.is_dir():
        pytest.skip(f"LongBench's scored predictions are not in {REAL} (LORA_NS_REAL_DATA)")
    assert score_subset(subset, read_predictions(REAL / f"{subset}.jsonl"), "levenshtein") == percent


def test_code_similarity_is_difflibs_not_an_edit_distance() -> None:
    """The longest block, "pq", leaves nothing else in order; the longest common subsequence, "abc", would give 0.4."""
    assert score_prediction("lcc", "pqa-b-c", ["a.b.c.pq"]) == 0.27  # 2 * 2 / 15


def test_first_line_and_best_answer() -> None:
    text = "\n\nParis\nQuestion: where"
    assert score_prediction("triviaqa", text, ["Rome", "Paris"]) == 1
    assert score_prediction("hotpotqa", text, ["Rome", "Paris"]) == 0.5


def test_a_subset_is_the_mean_in_percent() -> None:
    rows = [Prediction("cat", ("cat",)), Prediction("dog", ("cat",)), Prediction("", ("cat",))]
    assert score_subset("qasper", rows) == 33.33


def test_the_classes_of_the_last_row_apply_to_all() -> None:
    rows = [Prediction("Date, Food", ("Date",), ("Date", "Food")), Prediction("Date, Food", ("Date",), ("Date",))]
    assert score_subset("trec", rows) == 100


def test_buckets_of_longbench_e() -> None:
    lengths_and_texts = [(3999, "cat"), (4000, "dog"), (7999, "cat"), (0, "cat"), (3999, "dog")]
    rows = [Prediction(text, ("cat",), length=length) for length, text in lengths_and_texts]
    by_length = score_subset_by_length("qasper", rows)
    assert list(by_length) == ["0-4k", "4-8k", "8k+"]
    assert (by_length["0-4k"], by_length["4-8k"]) == (66.67, 50.0)
    assert math.isnan(by_length["8k+"])
    assert score_subset_by_length("qasper", [Prediction("cat", ("cat",), length=8000)])["8k+"] == 100


@pytest.mark.parametrize("subset", SUBSET_METRICS)
def test_official_scores(subset: str) -> None:
    if not REAL.is_dir():
        pytest.skip(f"LongBench's scored predictions are not in {REAL} (LORA_NS_REAL_DATA)")
    official = json.loads((REAL / "result.json").read_text("utf-8"))
    assert set(official) == set(SUBSET_METRICS)
    assert score_subset(subset, read_predictions(REAL / f"{subset}.jsonl")) == official[subset]


def test_the_command_prints_json_and_imports_no_torch(tmp_path: Path) -> None:
    write(tmp_path, "lcc", row("abc", "abd"))
    write(tmp_path, "qasper", row(), row("dog"), row(length=9000))
    (tmp_path / "result.json").write_text("{}")
    code = (
        "import runpy, sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "runpy.run_module('utils.metrics.longbench', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert list(json.loads(done.stdout).items()) == [("qasper", 66.67), ("lcc", 67.0)]
    assert done.stderr.splitlines()[-1] == "False"
    by_length = subprocess.run(
        [sys.executable, "-m", "utils.metrics.longbench", str(tmp_path), "--e", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(by_length.stdout)
    assert (answer["qasper"]["0-4k"], answer["qasper"]["8k+"]) == (50, 100)
    assert math.isnan(answer["qasper"]["4-8k"])


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "qasper", row(), row("dog"))
    assert run_cli(main, build(), [str(tmp_path)]) == 0
    words = capsys.readouterr().out.split()
    assert words == ["qasper", "50.00", "single-doc", "QA", "50.00", "average", "50.00"]


def test_the_command_prints_averages_by_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "qasper", row(), row("dog", length=5000))
    write(tmp_path, "trec", row(all_classes=["cat"]))
    assert run_cli(main, build(), [str(tmp_path), "--e"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == [
        [],
        ["single-doc", "QA", "0-4k", "100.00", "4-8k", "0.00", "8k+", "nan"],
        ["few-shot", "0-4k", "100.00", "4-8k", "nan", "8k+", "nan"],
        ["average", "0-4k", "100.00", "4-8k", "0.00", "8k+", "nan"],
    ]


def test_averages_weight_every_category_equally() -> None:
    values = {"qasper": 10.0, "narrativeqa": 20.0, "lcc": 50.0, "trec": math.nan}
    assert average_by_category(values) == {"single-doc QA": 15.0, "code": 50.0, "average": 32.5}
    assert average_by_category({"qasper_e": 4.0}) == {"single-doc QA": 4.0, "average": 4.0}
    assert average_by_category({}) == average_by_category({"trec": math.nan}) == {}
    whole = average_by_category({subset: float(place) for place, subset in enumerate(SUBSET_METRICS)})
    assert list(whole) == ["single-doc QA", "multi-doc QA", "summarization", "few-shot", "synthetic", "code", "average"]
    assert whole["average"] == pytest.approx(sum(list(whole.values())[:6]) / 6)


def test_a_rows_metric_is_that_of_its_subset() -> None:
    metric = load_metric("longbench_score")
    rows = [
        ("\nParis\nRome", {"subset": "triviaqa", "answers": ["Rome", "Paris"], "all_classes": []}, 1.0),
        ("Date, Food", {"subset": "trec_e", "answers": ["Date"], "all_classes": ["Date", "Food"]}, 0.5),
        ("cat", {"subset": "qasper", "answers": []}, 0.0),
        ("cat", {"subset": "qasper", "answers": [""]}, 0.0),
    ]
    scores = metric.score_rows([text for text, *_ in rows], [reference for _, reference, _ in rows])
    assert scores.tolist() == [expected for *_, expected in rows]


@pytest.mark.parametrize(
    ("subset", "second", "words", "message"),
    [
        ("qasper", "{", [], "qasper.jsonl:2: not JSON"),
        ("qasper", "[1]", [], "qasper.jsonl:2: not a JSON object"),
        ("qasper", "[" * 100_000, [], "qasper.jsonl:2: "),
        ("qasper", row() | {"pred": None}, [], "qasper.jsonl:2: pred must be a text"),
        ("qasper", row() | {"answers": "cat"}, [], "qasper.jsonl:2: answers must be a list"),
        ("qasper", row() | {"answers": []}, [], "qasper.jsonl:2: answers must be a list"),
        ("qasper", row() | {"length": None}, ["--e"], "qasper.jsonl:2: length must be a whole number"),
        ("passage_retrieval_en", row(), [], "passage_retrieval_en.jsonl:1: the answer 'cat' names no paragraph"),
        ("trec", row(), [], "trec.jsonl:1: all_classes must be a list"),
        ("qasper_e", row(), [], "LongBench has no subset 'qasper_e'; it has narrativeqa, "),
    ],
)
def test_mistakes_are_reported_in_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    subset: str,
    second: object,
    words: list[str],
    message: str,
) -> None:
    write(tmp_path, subset, row(), second)
    assert run_cli(main, build(), [str(tmp_path), *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_folders_without_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(main, build(), [str(tmp_path / "gone")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert run_cli(main, build(), [str(tmp_path)]) == 2
    assert "holds no predictions" in capsys.readouterr().err


def test_files_without_rows(tmp_path: Path) -> None:
    (tmp_path / "trec.jsonl").mkdir()
    with pytest.raises(DataError, match=r"trec\.jsonl: cannot be read \("):
        read_predictions(tmp_path / "trec.jsonl")
    with pytest.raises(DataError, match=r"lcc\.jsonl: holds no predictions"):
        read_predictions(write(tmp_path, "lcc", ""))
    latin = tmp_path / "qasper.jsonl"
    latin.write_bytes(b'\n{"pred": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"qasper\.jsonl:2: not UTF-8 text"):
        read_predictions(latin)


def test_empty_lines_and_line_separators_within_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "qasper", row("a\u2028b"), "", row())
    path.write_text(path.read_text("utf-8").replace("\\u2028", "\u2028"), encoding="utf-8")
    assert [(each.text, each.place) for each in read_predictions(path)] == [
        ("a\u2028b", f"{path}:1"),
        ("cat", f"{path}:3"),
    ]
