"""LongBench's official score of a row, reproduced exactly, with the metric of the row's subset.

Source: Bai et al. 2023, arXiv:2308.14508.
"""

from __future__ import annotations

import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from utils.core.errors import DataError
from utils.metrics.common_subsequence import count_common, find_common
from utils.metrics.metric import Reference, build_text_metric

CLASSIFICATION = "classification"
SUBSET_METRICS = {
    "narrativeqa": "qa_f1",
    "qasper": "qa_f1",
    "multifieldqa_en": "qa_f1",
    "multifieldqa_zh": "qa_f1_zh",
    "hotpotqa": "qa_f1",
    "2wikimqa": "qa_f1",
    "musique": "qa_f1",
    "dureader": "rouge_zh",
    "gov_report": "rouge",
    "qmsum": "rouge",
    "multi_news": "rouge",
    "vcsum": "rouge_zh",
    "trec": CLASSIFICATION,
    "triviaqa": "qa_f1",
    "samsum": "rouge",
    "lsht": CLASSIFICATION,
    "passage_count": "count",
    "passage_retrieval_en": "retrieval",
    "passage_retrieval_zh": "retrieval_zh",
    "lcc": "code_sim",
    "repobench-p": "code_sim",
}
"""Metric of each subset, in the benchmark's order."""

CATEGORIES = {
    "single-doc QA": ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    "multi-doc QA": ("hotpotqa", "2wikimqa", "musique", "dureader"),
    "summarization": ("gov_report", "qmsum", "multi_news", "vcsum"),
    "few-shot": ("trec", "triviaqa", "samsum", "lsht"),
    "synthetic": ("passage_count", "passage_retrieval_en", "passage_retrieval_zh"),
    "code": ("lcc", "repobench-p"),
}
"""Subsets by kind of task, in the benchmark's order."""

FIRST_LINE_SUBSETS = frozenset({"trec", "triviaqa", "samsum", "lsht"})
"""Subsets for which only the first line of a prediction counts."""

CODE_SIMILARITIES = ("difflib", "levenshtein")
"""Similarities for the code subsets, the default first. The official scorer uses the second if python-Levenshtein is
installed; scores differ by up to 5 points."""

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# The benchmark's own list, which includes only the closing one of the double angle brackets.
_WIDE_PUNCTUATION = re.compile(
    "[\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u3001-\u3003\u300b-\u3011\u3014-\u301f\u3030\u303e\u303f"
    "\ufe4f\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)
_NUMBER = re.compile(r"\d+")
_PARAGRAPH = re.compile(r"Paragraph (\d+)")
_PARAGRAPH_ZH = re.compile("\u6bb5\u843d(\\d+)")
_COMMENT_MARKS = ("`", "#", "//")


def score_longbench(prediction: str, reference: dict[str, Any]) -> float:
    """Score an answer by a reference with `subset`, `answers` and, where needed, `all_classes` and `code_similarity`.

    0 to 1; the benchmark's own tables show the mean x100.
    """
    classes, by = reference.get("all_classes") or (), reference.get("code_similarity", CODE_SIMILARITIES[0])
    subset = str(reference["subset"]).removesuffix("_e")
    return score_prediction(subset, prediction, reference["answers"], classes, code_similarity=by)


def is_code(reference: Reference) -> bool:
    """Return whether an answer is scored by the similarity of code."""
    subset = str(reference.get("subset")).removesuffix("_e") if isinstance(reference, dict) else ""
    return SUBSET_METRICS.get(subset) == "code_sim"


def score_prediction(
    subset: str,
    text: str,
    answers: Sequence[str],
    classes: Sequence[str] = (),
    *,
    code_similarity: str = CODE_SIMILARITIES[0],
) -> float:
    """Score one prediction with its subset's metric: the best over the answers, 0 to 1; 0 without answers.

    `text` is the unmodified generated text. `classes`, in the benchmark's order, are for classification only, and
    `code_similarity`, one of CODE_SIMILARITIES, for the code subsets.

    Raises:
        DataError: A retrieval answer names no paragraph.
    """
    if subset in FIRST_LINE_SUBSETS:
        text = text.lstrip("\n").split("\n")[0]
    name = SUBSET_METRICS[subset]
    if name == CLASSIFICATION:
        return max((score_classification(text, answer, classes) for answer in answers), default=0.0)
    if name == "code_sim":
        return max((score_code_similarity(text, answer, code_similarity) for answer in answers), default=0.0)
    return max((METRICS[name](text, answer) for answer in answers), default=0.0)


def score_qa_f1(prediction: str, answer: str) -> float:
    """Compute F1 over words, lower-cased, without punctuation and articles (LongBench, arXiv:2308.14508).

    It differs from `token_f1` outside English: words are separated by whitespace only.
    """
    return _score_overlap(_split_english(prediction), _split_english(answer))


def score_qa_f1_zh(prediction: str, answer: str) -> float:
    """Compute F1 over the words that jieba finds, lower-cased, without punctuation."""
    return _score_overlap(_split_chinese(prediction), _split_chinese(answer))


def score_rouge(prediction: str, answer: str) -> float:
    """Compute summary-level ROUGE-L F1 (Lin 2004, W04-1013) over distinct words, like package `rouge` 1.0.1.

    Texts are split into sentences at full stops, and into words at whitespace. The longest common subsequence of each
    pair of sentences is read off the table, and the distinct words of all of them count as found. Case, punctuation and
    endings are kept. The value differs from package `rouge_score`'s. Long sentences are scored even where the official
    scorer may exceed its recursion limit and return 0. 0 if either text consists only of full stops.
    """
    predicted, expected = _split_sentences(prediction), _split_sentences(answer)
    if not predicted or not expected:
        return 0.0
    found: set[str] = set()
    for sentence in expected:
        for other in predicted:
            if not set(sentence).intersection(other) <= found:  # otherwise it can add nothing new
                found.update(find_common(sentence, other))
    precision = len(found) / len(set().union(*predicted))
    recall = len(found) / len(set().union(*expected))
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def score_rouge_zh(prediction: str, answer: str) -> float:
    """Compute `score_rouge` over the words that jieba finds."""
    return score_rouge(" ".join(_cut(prediction)), " ".join(_cut(answer)))


def score_classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Compute one divided by the number of classes that the prediction names, or 0 if the right one is not named.

    A class whose name is contained in the right one's does not count. But as in the official scorer, the class directly
    after a removed one is skipped, and stays.
    """
    named = [each for each in classes if each in prediction]
    index = 0
    while index < len(named):
        if named[index] != answer and named[index] in answer:
            del named[index]
        index += 1
    return 1.0 / len(named) if answer in named else 0.0


def score_retrieval(prediction: str, answer: str) -> float:
    """Compute the share of the prediction's numbers that equal the answer's, as in `Paragraph 12`.

    Raises:
        DataError: The answer names no paragraph.
    """
    return score_count(prediction, _find_paragraph(_PARAGRAPH, answer, "Paragraph 12"))


def score_retrieval_zh(prediction: str, answer: str) -> float:
    """Compute `score_retrieval` for answers in Chinese."""
    return score_count(prediction, _find_paragraph(_PARAGRAPH_ZH, answer, "\u6bb5\u843d12"))


def score_count(prediction: str, answer: str) -> float:
    """Compute the share of the prediction's numbers that equal the answer; 0 without numbers."""
    numbers = _NUMBER.findall(prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def score_code_similarity(prediction: str, answer: str, by: str = CODE_SIMILARITIES[0]) -> float:
    """Compute the similarity of the answer and the prediction's first line without a comment, in hundredths.

    It is fuzzywuzzy's ratio: by difflib or, as if python-Levenshtein were installed, by the insertions and deletions
    that turn one text into the other (`ratio` of package Levenshtein, `Indel.normalized_similarity` of rapidfuzz).
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((each for each in lines if not any(mark in each for mark in _COMMENT_MARKS)), "")
    ratio = SequenceMatcher(None, line, answer).ratio() if by == "difflib" else _indel_similarity(line, answer)
    return round(100 * ratio) / 100


def _indel_similarity(one: str, other: str) -> float:
    size = len(one) + len(other)
    return 1.0 - (size - 2 * count_common(one, other)) / size if size else 1.0


def _score_overlap(predicted: list[str], expected: list[str]) -> float:
    num_shared = sum((Counter(predicted) & Counter(expected)).values())
    if num_shared == 0:
        return 0.0
    precision, recall = num_shared / len(predicted), num_shared / len(expected)
    return (2 * precision * recall) / (precision + recall)


def _split_english(text: str) -> list[str]:
    return _ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split()


def _split_chinese(text: str) -> list[str]:
    bare = (_WIDE_PUNCTUATION.sub("", _PUNCTUATION.sub("", word.lower())) for word in _cut(text))
    return [word for word in ("".join(each.split()) for each in bare) if word]


def _cut(text: str) -> list[str]:
    return list(_jieba().cut(text, cut_all=False))


@cache
def _jieba() -> Any:
    import jieba  # type: ignore[import-untyped]  # has no types

    jieba.setLogLevel(logging.WARNING)
    return jieba


def _find_paragraph(pattern: re.Pattern[str], answer: str, example: str) -> str:
    found = pattern.search(answer)
    if not found:
        raise DataError(f"the answer {answer!r} names no paragraph; it must be one like {example!r}")
    return found.group(1)


def _split_sentences(text: str) -> list[list[str]]:
    """Split into sentences of words; whitespace between two full stops is a sentence of one empty word."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


METRICS: dict[str, Callable[[str, str], float]] = {
    "qa_f1": score_qa_f1,
    "qa_f1_zh": score_qa_f1_zh,
    "rouge": score_rouge,
    "rouge_zh": score_rouge_zh,
    "retrieval": score_retrieval,
    "retrieval_zh": score_retrieval_zh,
    "count": score_count,
    "code_sim": score_code_similarity,
}
"""Functions from prediction and answer to 0-1; `classification`, which also needs the classes, is separate."""

METRIC = build_text_metric(
    "longbench_score",
    score_longbench,
    "the official score of a LongBench row",
    reference_keys=("subset", "answers"),
)
