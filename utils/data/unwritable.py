"""Finds characters that a tokenizer cannot write: a model can neither read nor learn them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_ROWS = 2000
"""Rows that are looked at: enough to meet every common character."""


def count_unwritable(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Count, for every character that is lost between encoding and decoding, the texts that hold it.

    A tokenizer made for children's stories may know no `#` and no `+`; it leaves them out, or puts an unknown token
    in their place, without a word. A character that comes back in another normal form (Unicode NFKC) is not lost.

    Args:
        texts: One text for each row.
        tokenizer: The base model's.

    Returns:
        Texts by character, the most frequent first; empty where nothing is lost.
    """
    held: Counter[str] = Counter()
    first: dict[str, str] = {}
    for text in texts:
        characters = {each for each in text if not each.isspace()}
        held.update(characters)
        first |= dict.fromkeys(characters - first.keys(), text)
    # Alone, a character may have no token where the words that hold it have one.
    lost = {
        character: count
        for character, count in held.items()
        if not (_comes_back(character, character, tokenizer) or _comes_back(character, first[character], tokenizer))
    }
    return dict(sorted(lost.items(), key=lambda pair: (-pair[1], pair[0])))


def _comes_back(character: str, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    back = tokenizer.decode([each for each in ids if each != tokenizer.unk_token_id])
    return unicodedata.normalize("NFKC", character) in unicodedata.normalize("NFKC", back)
