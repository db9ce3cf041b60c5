"""Draw documents of random words."""

from __future__ import annotations

import random


def write_document(seed: int, num_words: int) -> str:
    """Return a document of words out of 5,000, the same for the same seed."""
    draw = random.Random(seed)
    return " ".join(f"word{draw.randrange(5000)}" for _ in range(num_words))
