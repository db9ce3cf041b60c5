"""Finds overlapping texts by their words: equal texts, and documents that share a large part."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from zlib import crc32

SHINGLE = 13
"""Number of consecutive words in a shingle."""
SHARED = 0.5
"""Share of the shorter document's shingles from which two documents count as the same."""
_SAMPLED = 16
"""One in this many words begins a sampled shingle."""
_FEWEST = 8
"""Minimum number of shingles; documents with fewer are too short to be compared."""
_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+")


class _Anchors(dict[str, bool]):
    """Whether a word begins a shingle, so that the same shingles are sampled from every document."""

    def __missing__(self, word: str) -> bool:
        chosen = self[word] = crc32(word.encode("utf-8", "replace")) % _SAMPLED == 0
        return chosen


_ANCHORS = _Anchors()


def find_words(text: str) -> list[str]:
    """Return a text's words without case and punctuation; each Chinese character is a word."""
    return _WORD.findall(text.casefold())


def normalize_text(text: str) -> str:
    """Return a text's words joined by single spaces."""
    return " ".join(find_words(text))


def sample_shingles(text: str) -> frozenset[int]:
    """Hash a sample of a text's 13-word shingles, the same sample in all texts; valid in this process only."""
    words = find_words(text)
    starts = [place for place, word in enumerate(words[: 1 - SHINGLE]) if _ANCHORS[word]]
    return frozenset(hash(tuple(words[start : start + SHINGLE])) for start in starts)


class Documents:
    """Documents to search for overlaps with other texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._holders: dict[int, list[int]] = defaultdict(list)
        self._sizes = []
        for number, text in enumerate(texts):
            shingles = sample_shingles(text)
            self._sizes.append(len(shingles))
            for shingle in shingles:
                self._holders[shingle].append(number)

    def find(self, text: str) -> list[int]:
        """Return the documents that share half of the shorter text's shingles; short texts never match."""
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
