"""Rows in memory: the store counts every byte that it holds and stays within its budget."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path

import psutil
import pytest
import torch

from utils.adapters.qst.cache.row_codec import build_codec
from utils.adapters.qst.cache.row_store import ROW_OVERHEAD, RamStore, measure_free_memory

CODEC = build_codec("auto", 3, 16, torch.float32)


def make_key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_the_budget_is_kept_to_the_byte(caplog: pytest.LogCaptureFixture) -> None:
    states = torch.randn(3, 4, 16)  # 768 bytes, a multiple of the alignment
    for spare, expected in ((0, 5), (-1, 4)):
        store = RamStore(CODEC, 5 * (768 + ROW_OVERHEAD) + spare)
        assert sum(store.add(make_key(each), states) for each in range(9)) == expected
        assert store.num_bytes == expected * (768 + ROW_OVERHEAD)
    assert sum("is full" in record.message for record in caplog.records) == 2


def test_a_smaller_row_still_fits_into_the_remaining_budget() -> None:
    store = RamStore(CODEC, 2000)
    assert not store.add(make_key(1), torch.randn(3, 9, 16))
    assert store.add(make_key(2), torch.randn(3, 5, 16))
    assert not store.add(make_key(3), torch.randn(3, 5, 16))
    assert store.add(make_key(2), torch.randn(3, 5, 16))
    assert store.num_rows == 1


def test_allocated_memory_equals_counted_memory() -> None:
    states = torch.randn(3, 2, 16)  # 384 bytes, so that the overhead per row matters
    process = psutil.Process()
    store, before = RamStore(CODEC, 10**9), process.memory_info().rss
    for each in range(60_000):
        store.add(make_key(each), states)
    grown = process.memory_info().rss - before
    assert grown < store.num_bytes * 1.02, f"{grown:,} taken, {store.num_bytes:,} counted"


def test_the_overhead_per_row_is_measured_correctly() -> None:
    state = torch.zeros(3, 1, 16)
    for num_rows in (1000, 3000, 5000, 11_000):
        keys, store = [], RamStore(CODEC, 10**8)
        tracemalloc.start()
        for each in range(num_rows):
            keys.append(make_key(each))
            store.add(keys[-1], state)
        taken = tracemalloc.get_traced_memory()[0] / num_rows
        tracemalloc.stop()
        assert taken < ROW_OVERHEAD + 10, f"{num_rows} rows: {taken:.0f} bytes a row"


def test_rows_larger_than_a_buffer_and_many_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.adapters.qst.cache.row_store._BUFFER_BYTES", 4096)
    store = RamStore(CODEC, 10**7)
    rows = {make_key(each): torch.randn(3, 1 + each * 7 % 40, 16) for each in range(100)}
    assert all(store.add(key, states) for key, states in rows.items())
    for key, states in rows.items():
        found = store.read(key)
        assert found is not None
        assert torch.equal(found, states)


def test_a_failed_allocation_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    store = RamStore(build_codec("auto", 1, 1, torch.float32), 2**60)
    states = torch.zeros(1, 1, 1).expand(1, 2**45, 1)
    assert not store.add(make_key(1), states)
    assert "the system has no more memory" in caplog.text


def test_close_frees_the_memory() -> None:
    store, process = RamStore(CODEC, 10**9), psutil.Process()
    before = process.memory_info().rss
    for each in range(2000):
        store.add(make_key(each), torch.zeros(3, 200, 16))
    assert process.memory_info().rss - before > 70e6
    store.close()
    assert process.memory_info().rss - before < 15e6
    assert (store.num_rows, store.num_bytes) == (0, 0)


@pytest.mark.parametrize("layout", ["v2", "v1", "unlimited", "none"])
def test_a_containers_memory_limit_is_respected(tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    folder = tmp_path / "memory" if layout == "v1" else tmp_path
    limit, used = ("limit_in_bytes", "usage_in_bytes") if layout == "v1" else ("max", "current")
    if layout != "none":
        folder.mkdir(exist_ok=True)
        (folder / f"memory.{limit}").write_text("max\n" if layout == "unlimited" else "1000000\n")
        (folder / f"memory.{used}").write_text("700000\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    free = measure_free_memory(tmp_path)
    if layout in ("v1", "v2"):
        assert free == 500_000
    else:
        assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
