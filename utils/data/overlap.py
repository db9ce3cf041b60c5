"""Finds texts in texts by their words: equal ones, and documents of which one holds much of the other."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from zlib import crc32

SHINGLE = 13
"""Words that stand behind each other in both documents."""
SHARED = 0.5
"""Share of the shorter document's shingles that makes two documents the same."""
_SAMPLED = 16
"""One word of so many begins a shingle that is looked at."""
_FEWEST = 8
"""Shingles that tell a document; with fewer it is too short to be called one."""
_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+")


class _Anchors(dict[str, bool]):
    """Whether a shingle begins at a word, by the word, so that the same shingles are taken from every document."""

    def __missing__(self, word: str) -> bool:
        chosen = self[word] = crc32(word.encode("utf-8", "replace")) % _SAMPLED == 0
        return chosen


_ANCHORS = _Anchors()


def find_words(text: str) -> list[str]:
    """Find a text's words without case and punctuation; a Chinese character is a word."""
    return _WORD.findall(text.casefold())


def normalise(text: str) -> str:
    """Write a text as its words, with one space between."""
    return " ".join(find_words(text))


def sample_shingles(text: str) -> frozenset[int]:
    """Hash some of a text's runs of 13 words, the same in every text that has them; for this process only."""
    words = find_words(text)
    starts = [place for place, word in enumerate(words[: 1 - SHINGLE]) if _ANCHORS[word]]
    return frozenset(hash(tuple(words[start : start + SHINGLE])) for start in starts)


class Documents:
    """Documents, given as texts, in which others are looked for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._holders: dict[int, list[int]] = defaultdict(list)
        self._sizes = []
        for number, text in enumerate(texts):
            shingles = sample_shingles(text)
            self._sizes.append(len(shingles))
            for shingle in shingles:
                self._holders[shingle].append(number)

    def find(self, text: str) -> list[int]:
        """Find the documents of which the text holds half, or that hold half of the text; too short ones are none."""
        if not self._holders:
            return []
        shingles = sample_shingles(text)
        counts = Counter(number for shingle in shingles for number in self._holders.get(shingle, ()))
        found = []
        for number, count in counts.items():
            smaller = min(len(shingles), self._sizes[number])
            if smaller >= _FEWEST and count >= SHARED * smaller:
                found.append(number)
        return sorted(found)
