"""Opens the store configured by `peft.cache`, and logs its expected size."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utils.adapters.qst.cache import CacheSection
from utils.adapters.qst.cache.disk_store import DiskStore
from utils.adapters.qst.cache.row_codec import RowCodec, build_codec
from utils.adapters.qst.cache.row_store import RamStore, RowStore, measure_free_memory
from utils.core.cache_folder import cache_folder
from utils.core.errors import ConfigError, Problem

logger = logging.getLogger(__name__)

_GIB = 1024**3


def open_store(  # noqa: PLR0913, PLR0917 - a backbone's shape and a data set's size have no common home
    section: CacheSection,
    identity: Mapping[str, Any],
    num_states: int,
    hidden_size: int,
    dtype: torch.dtype,
    expected_tokens: int | None = None,
    expected_rows: int | None = None,
) -> RowStore:
    """Open a run's store, logging its expected size before anything is written.

    `identity` is what the states depend on, as plain JSON values: model files, quantization, layers. The expected
    numbers are totals over all rows; None: unknown.

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


def _warn_of_dtype(section: CacheSection, codec: RowCodec) -> None:
    """Warn of what peft.cache.dtype: bf16 means for this backbone, if it changes anything or nothing."""
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
    """Log how much space the cache will take, and how many rows fit if not all do."""
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
        "fit, the others are computed again in every epoch",
        f"{rows:,}", _show_size(size), where, allowed, f"{rows * budget // size:,}",
    )  # fmt: skip


def _show_size(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:,.1f} GB" if num_bytes >= _GIB / 10 else f"{num_bytes / 1024**2:,.1f} MB"
