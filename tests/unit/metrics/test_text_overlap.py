"""Word overlap: SQuAD's F1, ROUGE-L as the rouge package computes it, and Chinese characters as words."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tests.scoring import compute_metric
from utils.metrics.text_overlap import RougeTokenizer, split_answer

NI_HAO = "\u4f60\u597d"  # two Chinese characters
SHI_JIE = "\u4e16\u754c"


def score(name: str, prediction: str, reference: str) -> float:
    return compute_metric(name, [prediction], [reference], 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Cat, a dog!", ["cat", "dog"]),
        ("don't  stop\n", ["dont", "stop"]),
        ("An apple theory", ["apple", "theory"]),
        (f"{NI_HAO}, {SHI_JIE} ok", [*NI_HAO, *SHI_JIE, "ok"]),
        (f"{NI_HAO}\uff0c{SHI_JIE}\u3002", [*NI_HAO, *SHI_JIE]),
        ("x\u30abb", ["x", "\u30ab", "b"]),
        ("caf\u00e9 \u4e2dabc", ["caf\u00e9", "\u4e2d", "abc"]),
        ("... the !", []),
    ],
)
def test_split_answer(text: str, words: list[str]) -> None:
    assert split_answer(text) == words


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the cat sat", "A cat sat.", 1.0),
        ("cat cat", "cat", 2 / 3),
        ("the red cat", "a blue cat here", 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("the", "", 1.0),
        (NI_HAO, NI_HAO[0], 2 / 3),
    ],
)
def test_token_f1(prediction: str, reference: str, expected: float) -> None:
    assert score("token_f1", prediction, reference) == pytest.approx(expected, abs=1e-12)


def test_exact_match_only_strips_whitespace() -> None:
    assert [score("exact_match", text, "Yes") for text in (" Yes\n", "yes", "Yes.", "")] == [1, 0, 0, 0]


def random_latin(number: int) -> list[str]:
    draw = random.Random(5)
    words = [
        "running",
        "runs",
        "Cats",
        "cat",
        "the",
        "a",
        "3.5",
        "don't",
        "caf\u00e9",
        "it-is",
        "\u00dcber",
        "--",
        "\n",
    ]
    return [" ".join(draw.choices(words, k=draw.randint(0, 12))) for _ in range(number)]


def test_rouge_l_equals_the_packages_for_latin_text() -> None:
    from nltk.stem.porter import PorterStemmer
    from rouge_score import rouge_scorer, tokenize

    theirs = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    texts = random_latin(300)
    stemmer = PorterStemmer()
    for one, other in zip(texts, reversed(texts), strict=True):
        assert RougeTokenizer(stemmer.stem).tokenize(one) == tokenize.tokenize(one, stemmer)
        assert RougeTokenizer(None).tokenize(one) == tokenize.tokenize(one, None)
        assert score("rouge_l", one, other) == theirs.score(other, one)["rougeL"].fmeasure


def longest_common(one: str, other: str) -> int:
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return longest_common(one[:-1], other[:-1]) + 1
    return max(longest_common(one[:-1], other), longest_common(one, other[:-1]))


def test_rouge_l_of_chinese_counts_characters() -> None:
    from rouge_score import rouge_scorer

    one, other = NI_HAO + SHI_JIE + NI_HAO, SHI_JIE + NI_HAO + NI_HAO[0]
    common = longest_common(one, other)
    expected = 2 * common / (len(one) + len(other))
    assert 0 < expected < 1
    assert score("rouge_l", one, other) == pytest.approx(expected)
    assert rouge_scorer.RougeScorer(["rougeL"]).score(one, other)["rougeL"].fmeasure == 0, "why a tokenizer is needed"
    assert score("rouge_l", NI_HAO, NI_HAO) == 1
    assert score("rouge_l", "", NI_HAO) == 0


@pytest.mark.parametrize("subset", ["2wikimqa", "hotpotqa", "musique"])
def test_token_f1_gives_longbenchs_official_scores(subset: str) -> None:
    """Their qa_f1 is the best over the answers; predictions and scores are the benchmark's own, all in English."""
    folder = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "longbench_scored"
    if not folder.exists():
        pytest.skip(f"LongBench's scored predictions are not in {folder}")
    rows = [json.loads(line) for line in (folder / f"{subset}.jsonl").read_text("utf-8").split("\n") if line]
    best = [max(score("token_f1", row["pred"], answer) for answer in row["answers"]) for row in rows]
    official = json.loads((folder / "result.json").read_text())[subset]
    assert round(100 * sum(best) / len(best), 2) == official
