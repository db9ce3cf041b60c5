"""The longest common subsequence of two sequences, computed with bits."""

from __future__ import annotations

from collections.abc import Sequence


def count_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    return _length(_tabulate(one, other)[-1], len(other))


def find_common(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Return the longest common subsequence that package `rouge` finds: up before left only if that is longer."""
    rows, words = _tabulate(one, other), []
    # Which of several longest subsequences is read off affects the package's score, so its order of steps is kept.
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


def _tabulate(one: Sequence[str], other: Sequence[str]) -> list[int]:
    """Return the rows of the usual table of common subsequences, as bits.

    Column j of row i is j minus the number of ones among the first j bits of `rows[i]` (Hyyro 2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(other)) - 1  # a row of ones: nothing in common yet
    rows = [every]
    for word in one:
        kept = rows[-1] & places.get(word, 0)
        # The sum carries each match up to the next one of the row; the difference keeps the other ones.
        rows.append((rows[-1] + kept | rows[-1] - kept) & every)
    return rows


def _length(row: int, column: int) -> int:
    return column - (row & (1 << column) - 1).bit_count()
