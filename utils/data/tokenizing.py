"""Tokenises rows once: cut at max_length and counted, cached under a fingerprint of all that matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils.core.cache_folder import cache_folder
from utils.core.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

VERSION = "2"
"""Counts changes of this module's output; part of the cache's fingerprint."""


def fingerprint_rows(dataset: Dataset | Mapping[str, Sequence[Any]], columns: tuple[str, ...]) -> str:
    """Hash the values of some columns, in row order."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(f"\x1d{column}\x1e".encode())
        for value in dataset[column]:
            digest.update(f"{value}\x1f".encode())
    return digest.hexdigest()


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a tokenizer: its class, its vocabulary and rules, its special tokens; not its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = repr(sorted(tokenizer.get_vocab().items()))
    else:  # truncation and padding say what the last call asked for, not what the tokenizer is
        state = json.dumps({**json.loads(backend.to_str()), "truncation": None, "padding": None})
    return hashlib.sha256(
        f"{type(tokenizer).__name__}\x1f{state}\x1f{tokenizer.special_tokens_map}".encode()
    ).hexdigest()


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

    Raises:
        DataError: max_length leaves no room for text.
    """
    num_special = tokenizer.num_special_tokens_to_add(pair=len(text_columns) > 1)
    if max_length <= num_special:  # tokenizers cuts nothing then, and says nothing
        raise DataError(
            f"dataset.max_length: {max_length} leaves no room for text beside the tokenizer's {num_special} special "
            f"tokens; set {num_special + 1} at least"
        )
    labelled = ("labels",) if "labels" in dataset.column_names else ()
    key = hashlib.sha256(
        "\x1f".join(
            [
                VERSION,
                fingerprint_rows(dataset, (*text_columns, *labelled)),
                fingerprint_tokenizer(tokenizer),
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


def encode_texts(
    texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[dict[str, list[list[int]]], list[bool]]:
    """Encode rows the way in which models are trained and used; no row is left without a token.

    Args:
        texts: One or two columns of texts.
        tokenizer: Cuts the longer of two texts first.
        max_length: Tokens a row may have.

    Returns:
        The model's inputs by name, and for every row whether it was cut.
    """
    columns = [list(column) for column in texts]
    encoding = tokenizer(*columns, truncation=True, max_length=max_length)
    if encoding.encodings is not None:
        truncated = [bool(row.overflowing) for row in encoding.encodings]
    else:  # a tokenizer in Python does not tell what it cut
        truncated = [len(ids) > max_length for ids in tokenizer(*columns, verbose=False)["input_ids"]]
    encoded = {name: [list(row) for row in rows] for name, rows in encoding.items()}
    for row, ids in enumerate(encoded["input_ids"]):
        if not ids:  # an empty text where no special token is added: a batch of such rows has no width
            _fill_row(encoded, row, tokenizer)
    return encoded, truncated


def _fill_row(encoded: dict[str, list[list[int]]], row: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let an empty text be one end-of-text token."""
    token = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
    values = {"input_ids": token, "attention_mask": 1}
    for name, rows in encoded.items():
        rows[row] = [values.get(name, 0)]


def _tokenise_batch(
    batch: Any, tokenizer: PreTrainedTokenizerBase, text_columns: tuple[str, ...], max_length: int
) -> dict[str, list[Any]]:
    encoded, truncated = encode_texts([batch[column] for column in text_columns], tokenizer, max_length)
    return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "truncated": truncated}
