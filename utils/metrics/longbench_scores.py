"""The scores of LongBench: a prediction against one answer, 0 to 1, to the last digit as its own scorer has them."""

from __future__ import annotations

import logging
import re
import string
from collections import Counter
from difflib import SequenceMatcher
from functools import cache
from typing import TYPE_CHECKING, Any

from utils.core.errors import DataError
from utils.metrics.longbench_rouge import score_rouge_l

if TYPE_CHECKING:
    from collections.abc import Sequence

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# The benchmark's own list: of the double angle brackets only the closing one is in it.
_WIDE_PUNCTUATION = re.compile(
    "[\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u3001-\u3003\u300b-\u3011\u3014-\u301f\u3030\u303e\u303f"
    "\ufe4f\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64]"
)
_NUMBER = re.compile(r"\d+")
_PARAGRAPH = re.compile(r"Paragraph (\d+)")
_PARAGRAPH_ZH = re.compile("\u6bb5\u843d(\\d+)")
_COMMENT_MARKS = ("`", "#", "//")


def score_qa_f1(prediction: str, answer: str) -> float:
    """Compute F1 over words, lower-cased, without punctuation and articles (LongBench, arXiv:2308.14508).

    It differs from `token_f1` outside English: words are parted by white space only.
    """
    return _score_overlap(_split_english(prediction), _split_english(answer))


def score_qa_f1_zh(prediction: str, answer: str) -> float:
    """Compute F1 over the words that jieba finds, lower-cased, without punctuation."""
    return _score_overlap(_split_chinese(prediction), _split_chinese(answer))


def score_rouge(prediction: str, answer: str) -> float:
    """Compute ROUGE-L F1 as package `rouge` does: summary level, split at full stops, over distinct words.

    It is not the value of package `rouge_score`. Long sentences are scored where the official scorer may end its
    recursion with 0.

    Returns:
        0 to 1; 0 where either has nothing but full stops.
    """
    return score_rouge_l(prediction, answer)


def score_rouge_zh(prediction: str, answer: str) -> float:
    """Compute `score_rouge` over the words that jieba finds."""
    return score_rouge(" ".join(_cut(prediction)), " ".join(_cut(answer)))


def score_classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Compute one divided by the number of classes that the prediction names, 0 where the right one is not named.

    A class whose name is part of the right one's does not count. But as in the official scorer, the class directly
    after one that was taken out is not looked at, and stays.

    Args:
        prediction: What was generated.
        answer: The right class.
        classes: All classes, in the order of the benchmark.
    """
    named = [each for each in classes if each in prediction]
    index = 0
    while index < len(named):
        if named[index] != answer and named[index] in answer:
            del named[index]
        index += 1
    return 1.0 / len(named) if answer in named else 0.0


def score_retrieval(prediction: str, answer: str) -> float:
    """Compute the share of the prediction's numbers that are the answer's, as in `Paragraph 12`.

    Raises:
        DataError: The answer names no paragraph.
    """
    return score_count(prediction, _find_paragraph(_PARAGRAPH, answer, "Paragraph 12"))


def score_retrieval_zh(prediction: str, answer: str) -> float:
    """Compute `score_retrieval` for answers in Chinese.

    Raises:
        DataError: The answer names no paragraph.
    """
    return score_count(prediction, _find_paragraph(_PARAGRAPH_ZH, answer, "\u6bb5\u843d12"))


def score_count(prediction: str, answer: str) -> float:
    """Compute the share of the prediction's numbers that are the answer; 0 where there is no number."""
    numbers = _NUMBER.findall(prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def score_code_similarity(prediction: str, answer: str) -> float:
    """Compute how much the prediction's first line without a comment resembles the answer, in whole hundredths.

    It is fuzzywuzzy's ratio by difflib, which it takes where no faster library is installed; with python-Levenshtein
    or rapidfuzz the values are others.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((each for each in lines if not any(mark in each for mark in _COMMENT_MARKS)), "")
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100


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
