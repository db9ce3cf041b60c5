"""Metrics of the words that a text shares with its reference; Chinese, Japanese and Korean characters are words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from utils.metrics.metric import Metric, build_text_metric

# Ideographs with extension A and the supplementary planes, compatibility forms, kana, and Hangul.
_CJK = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7af"
)
_CJK_SPLIT = re.compile(f"([{_CJK}])")
_WORD = re.compile(f"[a-z0-9{_CJK}]")
_CJK_PUNCTUATION = "\u3000-\u3004\u3008-\u303f\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_WIDE_PUNCTUATION = re.compile(f"[{_CJK_PUNCTUATION}]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def score_exact_match(prediction: str, reference: str) -> float:
    """Return 1 if both are equal up to surrounding whitespace, else 0."""
    return float(prediction.strip() == reference.strip())


def score_token_f1(prediction: str, reference: str) -> float:
    """Compute SQuAD's F1 over words (Rajpurkar et al. 2016, arXiv:1606.05250; evaluate-v2.0.py).

    If either has no words it is 1 if both have none, else 0.
    """
    predicted, expected = split_answer(prediction), split_answer(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    num_shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * num_shared / (len(predicted) + len(expected))


def score_rouge_l(prediction: str, reference: str) -> float:
    """Compute ROUGE-L F1 (Lin 2004, W04-1013) with rouge_score and stemming; 0 if either has no words.

    The value differs from package `rouge`'s, which LongBench uses.
    """
    if not all(_WORD.search(text.lower()) for text in (prediction, reference)):
        return 0.0  # without nltk, whose import takes a second
    return float(_rouge_scorer().score(reference, prediction)["rougeL"].fmeasure)


def split_answer(text: str) -> list[str]:
    """Split into words like SQuAD's evaluation (Rajpurkar et al. 2016, arXiv:1606.05250).

    Text is lower-cased; punctuation, `a`, `an` and `the` are deleted; the rest is split at whitespace. Chinese,
    Japanese and Korean characters are separate words, and their punctuation separates words.
    """
    text = _PUNCTUATION.sub("", text.lower())
    text = _ARTICLES.sub(" ", _WIDE_PUNCTUATION.sub(" ", text))
    return _CJK_SPLIT.sub(r" \1 ", text).split()


class RougeTokenizer:
    """Tokenizes like package rouge_score, but keeps Chinese, Japanese and Korean characters as words.

    Args:
        stem: Reduces a word of more than three letters to its stem; None: no stemming.
    """

    def __init__(self, stem: Callable[[str], str] | None) -> None:
        self._stem = stem

    def tokenize(self, text: str) -> list[str]:
        """Split a text into words, lower-cased."""
        parts = _CJK_SPLIT.split(text)
        words: list[str] = []
        for index, part in enumerate(parts):  # splitting by a group puts its matches at odd positions
            words += [part] if index % 2 else self._tokenize_latin(part)
        return words

    def _tokenize_latin(self, text: str) -> list[str]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return [self._stem(word) if self._stem and len(word) > 3 else word for word in words]


@cache
def _rouge_scorer() -> Any:
    """Build rouge_score's ROUGE-L scorer with its Porter stemmer."""
    from nltk.stem.porter import PorterStemmer
    from rouge_score.rouge_scorer import RougeScorer

    # Stemming takes five sixths of the time, and most words recur.
    stem = lru_cache(maxsize=1 << 16)(PorterStemmer().stem)
    return RougeScorer(["rougeL"], use_stemmer=True, tokenizer=RougeTokenizer(stem))


TABLE: dict[str, Metric] = {
    "exact_match": build_text_metric("exact_match", score_exact_match, "share of texts that equal their reference"),
    "token_f1": build_text_metric("token_f1", score_token_f1, "words shared with the reference, as F1"),
    "rouge_l": build_text_metric("rouge_l", score_rouge_l, "longest common subsequence of words, as F1 (rouge_score)"),
}
