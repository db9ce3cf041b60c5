"""Tokenises rows once: cut at max_length and counted, cached under a fingerprint of all that matters."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

VERSION = "1"
"""Counts changes of this module's output; part of the cache's fingerprint."""


def fingerprint_rows(dataset: Dataset, columns: tuple[str, ...]) -> str:
    """Hash the values of some columns, in row order."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(f"\x1d{column}\x1e".encode())
        for value in dataset[column]:
            digest.update(f"{value}\x1f".encode())
    return digest.hexdigest()


def tokenise(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, text_columns: tuple[str, ...], max_length: int
) -> Dataset:
    """Tokenise the text columns; padding is left to the batches.

    Args:
        dataset: Rows with the text columns, and `labels` where they are labelled.
        tokenizer: Cuts the longer of two texts first.
        text_columns: One or two columns.
        max_length: Tokens a row may have.

    Returns:
        The model's inputs and `labels`, with `length` (tokens) and `truncated` (whether the row was cut).
    """
    labelled = ("labels",) if "labels" in dataset.column_names else ()
    key = hashlib.sha256(
        "\x1f".join(
            [
                VERSION,
                fingerprint_rows(dataset, (*text_columns, *labelled)),
                _fingerprint_tokenizer(tokenizer),
                str(max_length),
            ]
        ).encode()
    ).hexdigest()[:24]
    cache = cache_folder() / "tokenised" / f"{key}.arrow"
    cache.parent.mkdir(parents=True, exist_ok=True)
    return dataset.map(
        lambda batch: _tokenise_batch(batch, tokenizer, text_columns, max_length),
        batched=True,
        remove_columns=[name for name in dataset.column_names if name != "labels"],
        cache_file_name=str(cache),
        new_fingerprint=key,
        load_from_cache_file=True,
    )


def cache_folder() -> Path:
    """Where prepared data is kept: LORA_NS_CACHE, else ~/.cache/lora-ns."""
    return Path(os.environ.get("LORA_NS_CACHE", "~/.cache/lora-ns")).expanduser()


def _tokenise_batch(
    batch: Any, tokenizer: PreTrainedTokenizerBase, text_columns: tuple[str, ...], max_length: int
) -> dict[str, list[Any]]:
    texts = [batch[column] for column in text_columns]
    encoding = tokenizer(*texts, truncation=True, max_length=max_length)
    if encoding.encodings is not None:
        truncated = [bool(row.overflowing) for row in encoding.encodings]
    else:  # a tokenizer in Python does not tell what it cut
        truncated = [len(ids) > max_length for ids in tokenizer(*texts, verbose=False)["input_ids"]]
    lengths = [len(ids) for ids in encoding["input_ids"]]
    return {**encoding, "length": lengths, "truncated": truncated}


def _fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(
        f"{type(tokenizer).__name__}\x1f{state}\x1f{tokenizer.special_tokens_map}".encode()
    ).hexdigest()
