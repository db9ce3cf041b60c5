"""Where the hidden states of training rows are kept: what a store offers, and how the right one is opened."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from utils.adapters.qst.cache.disk_store import DiskStore
from utils.adapters.qst.cache.ram_store import RamStore, measure_free_memory
from utils.adapters.qst.cache.row_codec import RowCodec, build_codec
from utils.adapters.qst.cache.section import CacheSection
from utils.core.cache_folder import cache_folder
from utils.core.errors import ConfigError, Problem

logger = logging.getLogger(__name__)

_GIB = 1024**3


class RowStore(Protocol):
    """Keeps rows' hidden states by a key of 16 bytes.

    A row is a training row without padding; its states are one tensor (num_states, num_tokens, hidden_size) of the
    backbone's dtype.
    """

    @property
    def num_rows(self) -> int:
        """Rows that are here."""

    @property
    def num_bytes(self) -> int:
        """Bytes that they take."""

    @property
    def hidden_size(self) -> int:
        """Values of a state."""

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's dtype, in which rows are taken and given."""

    def __contains__(self, key: bytes) -> bool:
        """Tell whether a row is here; reading it may yet find it damaged."""

    def add(self, key: bytes, states: torch.Tensor) -> bool:
        """Keep a row's states, on any device.

        Returns:
            False when there is no room for them, which is said once; a full disk is no error.
        """

    def read(self, key: bytes) -> torch.Tensor | None:
        """Give a row's states on the CPU; None when it is not here or damaged, and then it is forgotten."""

    def read_into(self, key: bytes, out: torch.Tensor, offset: int = 0) -> bool:
        """Write a row's states into a padded batch's slice without another copy.

        Args:
            key: Of the row.
            out: (num_states, length, hidden_size) of the backbone's dtype, with any strides.
            offset: Where the row's first token goes; all of its tokens must fit behind it.

        Returns:
            False when the row is not here or damaged; it is then forgotten, and `out` is as before.
        """

    def close(self) -> None:
        """Give files and memory free."""


def open_store(  # noqa: PLR0913, PLR0917 - a backbone's shape and a data set's size have no common home
    section: CacheSection,
    identity: Mapping[str, Any],
    num_states: int,
    hidden_size: int,
    dtype: torch.dtype,
    expected_tokens: int | None = None,
    expected_rows: int | None = None,
) -> RowStore:
    """Open the store that a run asks for; its expected size is said before anything is written.

    Args:
        section: `peft.cache`.
        identity: What the states depend on, as plain JSON values: model files, quantization, layers.
        num_states: States of a token.
        hidden_size: Values of a state.
        dtype: The backbone's dtype.
        expected_tokens: Tokens of all rows together; None: unknown.
        expected_rows: Rows; None: unknown.

    Raises:
        ConfigError: The folder of the cache cannot be written.
    """
    codec = build_codec(section.dtype, num_states, hidden_size, dtype)
    _warn_of_dtype(section, codec)
    num_processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    asked = None if section.budget_gb is None else int(section.budget_gb * _GIB)
    if section.where == "ram":
        budget = (measure_free_memory() // 2 if asked is None else asked) // num_processes
        each = f" of memory in each of {num_processes} processes" if num_processes > 1 else " of memory"
        _announce(codec, budget, each, expected_tokens, expected_rows)
        return RamStore(codec, budget)
    folder = Path(section.dir).expanduser() if section.dir is not None else cache_folder() / "qst_cache"
    try:
        store = DiskStore(folder, identity, codec)
        taken = store.num_bytes
        budget = taken + int(store.measure_free() * 0.9) if asked is None else asked
        there = f" in {store.folder}" + (f", where {store.num_rows:,} rows are already" if store.num_rows else "")
        _announce(codec, budget, there, expected_tokens, expected_rows)
        store.start_writing(max(0, budget - taken) // num_processes)
    except OSError as error:
        reason = f"{folder} cannot be used ({error.strerror or error}); name a folder that you can write in"
        raise ConfigError([Problem(reason, "peft.cache.dir")]) from None
    return store


def bytes_per_token(section_dtype: str, num_states: int, hidden_size: int, torch_dtype: torch.dtype) -> float:
    """Bytes that a token's states take in the cache.

    Args:
        section_dtype: `auto`, `bf16` or `int8`.
        num_states: States of a token.
        hidden_size: Values of a state.
        torch_dtype: The backbone's dtype.
    """
    return float(build_codec(section_dtype, num_states, hidden_size, torch_dtype).bytes_per_token)


def _warn_of_dtype(section: CacheSection, codec: RowCodec) -> None:
    """Say what peft.cache.dtype: bf16 means for this backbone, where it is not what it keeps anyway."""
    name = str(codec.dtype).removeprefix("torch.")
    if codec.kind == "bf16":
        logger.warning(
            "peft.cache.dtype: bf16 rounds the backbone's %s states, so later epochs differ a little from the first; "
            "auto keeps them exactly",
            name,
        )
    elif section.dtype == "bf16" and codec.dtype != torch.bfloat16:
        logger.warning("peft.cache.dtype: bf16 would save nothing over the backbone's %s; rows are kept exactly", name)


def _announce(codec: RowCodec, budget: int, where: str, tokens: int | None, rows: int | None) -> None:
    """Say how much the cache will take, and how many rows fit where not all do."""
    allowed = _show_size(budget)
    if not tokens or not rows:
        each = codec.bytes_per_token / 1024
        logger.info("the backbone cache takes %.1f KB for every token, up to %s%s", each, allowed, where)
        return
    size = codec.num_bytes(tokens)
    if size <= budget:
        logger.info("the backbone cache of %s rows takes about %s%s", f"{rows:,}", _show_size(size), where)
        return
    logger.info(
        "the backbone cache of %s rows would take about %s%s, but may take %s (peft.cache.budget_gb): about %s rows "
        "fit, the others are computed anew in every epoch",
        f"{rows:,}", _show_size(size), where, allowed, f"{rows * budget // size:,}",
    )  # fmt: skip


def _show_size(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:,.1f} GB" if num_bytes >= _GIB / 10 else f"{num_bytes / 1024**2:,.1f} MB"
