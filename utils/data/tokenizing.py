"""Tokenizes rows with labels, cut at max_length; and the cache of all tokens."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from utils.core.cache_folder import cache_folder
from utils.core.errors import DataError, UserError
from utils.core.library_errors import is_full_disk, is_of_library
from utils.core.replace_file import folder_beside

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

T = TypeVar("T")
_ROWS_AT_ONCE = 2000
VERSION = "2"
"""Version of this module's output; part of the cache's fingerprint."""


def fingerprint_rows(dataset: Dataset | Mapping[str, Sequence[Any]], columns: tuple[str, ...]) -> str:
    """Hash the values of some columns, in row order."""
    digest = hashlib.sha256()
    for column in columns:
        digest.update(f"\x1d{column}\x1e".encode())
        for value in read_column(dataset, column):
            digest.update(f"{value}\x1f".encode())
    return digest.hexdigest()


def read_column(dataset: Dataset | Mapping[str, Sequence[Any]], column: str) -> Iterator[Any]:
    """Return a column's values, read in large batches: a Dataset takes nearly as long for a single one."""
    if isinstance(dataset, Mapping):
        return iter(dataset[column])
    batches = dataset.select_columns([column]).iter(_ROWS_AT_ONCE)
    return chain.from_iterable(batch[column] for batch in batches)


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a tokenizer's class, vocabulary, rules and special tokens, but not its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = repr(sorted(tokenizer.get_vocab().items()))
    else:  # truncation and padding reflect the last call, not the tokenizer
        state = json.dumps({**json.loads(backend.to_str()), "truncation": None, "padding": None})
    return hashlib.sha256(
        f"{type(tokenizer).__name__}\x1f{state}\x1f{tokenizer.special_tokens_map}".encode()
    ).hexdigest()


def tokenize_rows(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, text_columns: tuple[str, ...], max_length: int
) -> Dataset:
    """Tokenize one or two columns of text, cutting the longer of two texts first, without padding.

    `length` is the number of a row's tokens, and `truncated` says whether it was cut.
    """
    from datasets import Dataset

    num_special = tokenizer.num_special_tokens_to_add(pair=len(text_columns) > 1)
    if max_length <= num_special:  # tokenizers then silently cuts nothing
        raise DataError(
            f"dataset.max_length: {max_length} leaves no room for text beside the tokenizer's {num_special} special "
            f"tokens; set {num_special + 1} at least"
        )
    labelled = ("labels",) if "labels" in dataset.column_names else ()
    values = fingerprint_rows(dataset, (*text_columns, *labelled))
    settings = [VERSION, values, fingerprint_tokenizer(tokenizer), str(max_length)]

    def tokenize_batch(batch: Any) -> dict[str, list[Any]]:
        encoded, truncated = encode_texts([batch[column] for column in text_columns], tokenizer, max_length)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "truncated": truncated}

    def write(folder: Path) -> None:
        texts = [name for name in dataset.column_names if name != "labels"]
        dataset.map(
            tokenize_batch, batched=True, remove_columns=texts, cache_file_name=str(folder / "rows.arrow"),
            load_from_cache_file=False, new_fingerprint="tokens",
        )  # fmt: skip

    def read(file: Path) -> Dataset | None:
        tokens = Dataset.from_file(str(file))
        return tokens if len(tokens) == len(dataset) else None

    return cache_tokens("tokenised", settings, [".arrow"], write, read)


def cache_tokens(
    kind: str,
    settings: Sequence[str],
    suffixes: Sequence[str],
    write: Callable[[Path], None],
    read: Callable[..., T | None],
) -> T:
    """Return tokens from the cache's folder `kind`, created once for the same settings, which determine them.

    `write` creates a file `rows` with each suffix in a folder; the last one is moved into the cache last. `read`
    returns their content, or None if they are incomplete, as after a power cut; they are then created again.
    """
    key = hashlib.sha256("\x1f".join(settings).encode()).hexdigest()[:24]
    home = cache_folder() / kind
    files = [home / f"{key}{suffix}" for suffix in suffixes]
    if all(file.exists() for file in files):
        if (kept := _read_kept(files, read)) is not None:
            return kept
        logger.warning("%s: damaged; its rows are made into tokens again", files[0])
    try:
        with folder_beside(home / "rows") as folder:  # another process may be doing the same
            write(folder)
            for file, suffix in zip(files, suffixes, strict=True):
                (folder / f"rows{suffix}").replace(file)
    except Exception as error:  # each library has its own
        if not is_full_disk(error):
            raise
        raise UserError(
            f"{home}: the disk of the cache is full; free some space, or set LORA_NS_CACHE to another folder"
        ) from None
    made = read(*files)
    assert made is not None, "it was written whole"
    return made


def _read_kept(files: Sequence[Path], read: Callable[..., T | None]) -> T | None:
    try:
        return read(*files)
    except Exception as error:  # Arrow raises many kinds of errors for damaged files
        if not (isinstance(error, UserError) or is_of_library(error)):
            raise
        return None


def encode_texts(
    texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[dict[str, list[list[int]]], list[bool]]:
    """Encode one or two columns of texts as for training, never to empty rows, and return which were cut."""
    columns = [list(column) for column in texts]
    encoding = tokenizer(*columns, truncation=True, max_length=max_length)
    if encoding.encodings is not None:
        truncated = [bool(row.overflowing) for row in encoding.encodings]
    else:  # a Python tokenizer does not report what it cut
        truncated = [len(ids) > max_length for ids in tokenizer(*columns, verbose=False)["input_ids"]]
    encoded = {name: [list(row) for row in rows] for name, rows in encoding.items()}
    # An empty text without special tokens becomes one end-of-text token: a batch of such rows would have no width.
    token = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
    filling = {"input_ids": token, "attention_mask": 1}
    for row in [row for row, ids in enumerate(encoded["input_ids"]) if not ids]:
        for name, rows in encoded.items():
            rows[row] = [filling.get(name, 0)]
    return encoded, truncated
