"""ROUGE-L as LongBench counts it: the summary-level score of package `rouge`, to the last digit, without its table."""

from __future__ import annotations

from collections.abc import Sequence


def score_rouge_l(prediction: str, answer: str) -> float:
    """Compute summary-level ROUGE-L F1 (Lin 2004, W04-1013) over distinct words, as package `rouge` 1.0.1 does.

    Texts are split at full stops into sentences and at white space into words. A longest common subsequence is read
    off each pair of sentences; the distinct words of all of them count as found. Case, punctuation and endings stay.

    Returns:
        0 to 1; 0 where either text has nothing but full stops.
    """
    predicted, expected = _split(prediction), _split(answer)
    if not predicted or not expected:
        return 0.0
    found: set[str] = set()
    for sentence in expected:
        for other in predicted:
            if not set(sentence).intersection(other) <= found:  # else nothing new can come of it
                found.update(_common_words(sentence, other))
    precision = len(found) / len(set().union(*predicted))
    recall = len(found) / len(set().union(*expected))
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _split(text: str) -> list[list[str]]:
    """Split into sentences of words; white space between two full stops is a sentence of one empty word."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common_words(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Read off the longest common subsequence that the package would: up before left only where that is longer.

    Column j of row i of the usual table is j minus the ones among the first j bits of `rows[i]` (Hyyro 2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(other)) - 1
    rows = [every]
    for word in one:
        kept = rows[-1] & places.get(word, 0)
        rows.append((rows[-1] + kept | rows[-1] - kept) & every)
    words = []
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            words.append(one[i - 1])
            i, j = i - 1, j - 1
        elif _length(rows[i - 1], j) > _length(rows[i], j - 1):
            i -= 1
        else:
            j -= 1
    return words


def _length(row: int, column: int) -> int:
    return column - (row & (1 << column) - 1).bit_count()
