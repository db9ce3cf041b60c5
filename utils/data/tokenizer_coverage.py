"""Finds characters that a tokenizer cannot write: a model can neither read nor learn them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_ROWS = 2000
"""Rows that are looked at: enough to meet every common character."""


def count_unwritable(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, to_read: bool = False
) -> dict[str, int]:
    """Count, for every character that is lost between encoding and decoding, the texts that hold it.

    A tokenizer made for children's stories may know no `#` and no `+`; it leaves them out, or puts an unknown token
    in their place, without a word. A character that comes back in another normal form (Unicode NFKC) is not lost.

    Args:
        texts: One text for each row.
        tokenizer: The base model's.
        to_read: The model reads the texts and writes none: what the tokenizer itself makes of a character, such as
            its small letter, is as good, and nothing is lost with a character that nobody sees.

    Returns:
        Texts by character, the most frequent first; empty where nothing is lost.
    """
    held: Counter[str] = Counter()
    first: dict[str, str] = {}
    for text in texts:
        characters = {each for each in text if not each.isspace() and (each.isprintable() or not to_read)}
        held.update(characters)
        first |= dict.fromkeys(characters - first.keys(), text)
    # Alone, a character may have no token where the words that hold it have one.
    lost = {
        character: count
        for character, count in held.items()
        if not any(
            _comes_back(form, text, tokenizer)
            for form in (character, *(_normalize(character, tokenizer) if to_read else ()))
            for text in (character, first[character])
        )
    }
    return dict(sorted(lost.items(), key=lambda pair: (-pair[1], pair[0])))


def show_characters(counts: Mapping[str, int], most: int = 20) -> str:
    """Write the first of some characters, with the number of rows that hold the most frequent one."""
    first = [each if each.isprintable() else f"U+{ord(each):04X}" for each in list(counts)[:most]]
    shown = " ".join(first) + (" ..." if len(counts) > most else "")
    return f"{shown} (the first in {next(iter(counts.values()))} rows)"


def _normalize(character: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Give what the tokenizer reads in place of a character, if anything."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    form = normalizer.normalize_str(character).strip() if normalizer is not None else ""
    return (form,) if form else ()


def _comes_back(character: str, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    back = tokenizer.decode([each for each in ids if each != tokenizer.unk_token_id])
    return unicodedata.normalize("NFKC", character) in unicodedata.normalize("NFKC", back)
