"""Stored rows: what each dtype keeps, how large rows are, and what exceeds the budget."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from utils.adapters.qst.cache import CacheSection
from utils.adapters.qst.cache.open_store import open_store
from utils.adapters.qst.cache.row_codec import build_codec
from utils.adapters.qst.cache.row_store import RowStore

STATES, HIDDEN = 4, 24
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make_states(seed: int, num_tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(STATES, num_tokens, HIDDEN, generator=generator)
    states[..., 3] *= 50  # as in language models, a few dimensions are much larger than the others
    return states.to(dtype)


def make_key(seed: int) -> bytes:
    return seed.to_bytes(16, "big")


def same_bits(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def open_at(folder: Path, where: str, dtype: str = "auto", torch_dtype: torch.dtype = torch.float32) -> RowStore:
    section = CacheSection(where=where, dtype=dtype, budget_gb=0.1, dir=str(folder) if where == "disk" else None)
    return open_store(section, {"model": "m"}, STATES, HIDDEN, torch_dtype)


@pytest.mark.parametrize("where", ["ram", "disk"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_bit_for_bit(tmp_path: Path, where: str, dtype: torch.dtype) -> None:
    rows = {make_key(each): make_states(each, 1 + each % 7, dtype) for each in range(20)}
    special = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 1e-41]).to(dtype)
    rows[make_key(0)][0, 0, :5] = special
    store = open_at(tmp_path, where, torch_dtype=dtype)
    assert not any(key in store for key in rows)
    assert all(store.add(key, states) for key, states in rows.items())
    assert (store.num_rows, store.hidden_size, store.dtype) == (20, HIDDEN, dtype)
    assert all(key in store and same_bits(store.read(key), states) for key, states in rows.items())
    assert store.num_bytes >= sum(states.nbytes for states in rows.values())
    store.close()


@pytest.mark.parametrize("where", ["ram", "disk"])
@pytest.mark.parametrize("kind", ["auto", "bf16", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reading_into_a_padded_batch_changes_only_the_row(
    tmp_path: Path, where: str, kind: str, dtype: torch.dtype
) -> None:
    store = open_at(tmp_path, where, kind, dtype)
    for seed, num_tokens in ((1, 5), (2, 3)):
        batch = make_states(seed, 9, dtype)
        # A non-contiguous slice of a batch, like a recording.
        assert store.add(make_key(seed), batch.repeat(1, 1, 2)[:, 2 : 2 + num_tokens, :HIDDEN])
    out = torch.full((STATES, 2, 11, HIDDEN), 7.0, dtype=dtype)
    assert store.read_into(make_key(1), out[:, 0], 6)
    assert store.read_into(make_key(2), out[:, 1])
    whole = [store.read(make_key(seed)) for seed in (1, 2)]
    assert whole[0] is not None
    assert whole[1] is not None
    assert same_bits(out[:, 0, 6:].contiguous(), whole[0])
    assert same_bits(out[:, 1, :3].contiguous(), whole[1])
    out[:, 0, 6:], out[:, 1, :3] = 7, 7
    assert bool((out == 7).all())
    assert not store.read_into(make_key(9), out[:, 0])
    assert store.read(make_key(9)) is None
    store.close()


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_bf16_is_exactly_a_cast_of_float32(tmp_path: Path, where: str) -> None:
    store, states = open_at(tmp_path, where, "bf16"), make_states(1, 6)
    store.add(make_key(1), states)
    assert same_bits(store.read(make_key(1)), states.bfloat16().float())
    store.close()


@pytest.mark.parametrize("where", ["ram", "disk"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_error_is_at_most_half_a_step(tmp_path: Path, where: str, dtype: torch.dtype) -> None:
    store, states = open_at(tmp_path, where, "int8", dtype), make_states(1, 6, dtype)
    states[1, 2], states[2, 3], states[3, 4] = 0, 1e-30, 60_000
    store.add(make_key(1), states)
    found = store.read(make_key(1))
    assert found is not None
    assert found.dtype == dtype
    step = states.double().abs().amax(-1, keepdim=True) / 127
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype] * states.double().abs()
    tiny = 6e-8 if dtype == torch.float16 else 1e-38
    assert bool(((found.double() - states.double()).abs() <= 0.5001 * step + 2 * rounding + tiny).all())
    assert bool((found[1, 2] == 0).all())
    store.close()


@pytest.mark.parametrize("where", ["ram", "disk"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_int8_refuses_values_it_cannot_represent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str, value: float
) -> None:
    store, states = open_at(tmp_path, where, "int8"), make_states(1, 6)
    states[2, 3, 4] = value
    for _ in range(2):
        assert not store.add(make_key(1), states)
    assert make_key(1) not in store
    assert sum("infinite" in record.message for record in caplog.records) == 1
    assert store.add(make_key(2), make_states(2, 3))
    store.close()


def test_int8_of_large_rows_equals_a_direct_computation() -> None:
    states = torch.randn(7, 150, 768, generator=torch.Generator().manual_seed(3)).bfloat16()  # several blocks
    store = open_store(CacheSection(dtype="int8"), {}, 7, 768, torch.bfloat16)
    store.add(make_key(1), states)
    scale = states.float().abs().amax(-1, keepdim=True) / 127
    found = store.read(make_key(1))
    assert found is not None
    assert torch.equal(found, ((states.float() / scale).round() * scale).bfloat16())


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("auto", torch.float32, 17 * 2048 * 4),
        ("auto", torch.bfloat16, 17 * 2048 * 2),
        ("bf16", torch.float32, 17 * 2048 * 2),
        ("bf16", torch.float16, 17 * 2048 * 2),
        ("int8", torch.bfloat16, 17 * (2048 + 4)),
    ],
)
def test_bytes_per_token(kind: str, dtype: torch.dtype, expected: float) -> None:
    assert build_codec(kind, 17, 2048, dtype).bytes_per_token == expected


def test_the_size_is_logged_before_anything_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows, tokens = 2490, 2490 * 74

    class Listing(logging.Handler):
        found: list[list[Path]] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.found.append(sorted(tmp_path.rglob("*")))

    logger = logging.getLogger("utils.adapters.qst.cache.open_store")
    logger.addHandler(handler := Listing())
    section = CacheSection(where="disk", dir=str(tmp_path), budget_gb=20)  # not what is free here
    store = open_store(section, {}, 17, 2048, torch.bfloat16, tokens, rows)
    logger.removeHandler(handler)
    store.close()
    assert handler.found == [[]]
    size = 17 * 2048 * 2 * tokens / 1024**3
    assert f"the backbone cache of 2,490 rows takes about {size:.1f} GB in {tmp_path}" in caplog.text


def test_exceeding_the_budget_is_reported_with_the_number_of_rows_that_fit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    open_store(CacheSection(budget_gb=0.5), {}, 17, 2048, torch.bfloat16, 74_000, 1000)
    fit = int(1000 * 0.5 * 1024**3 / (17 * 2048 * 2 * 74_000))
    assert f"about {fit:,} rows fit" in caplog.text
    assert "would take about 4.8 GB of memory, but may take 0.5 GB (peft.cache.budget_gb)" in caplog.text


def test_an_unknown_size_is_reported_per_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    open_store(CacheSection(budget_gb=2), {}, 17, 2048, torch.bfloat16)
    assert "takes 68.0 KB for every token, up to 2.0 GB of memory" in caplog.text


def test_processes_of_a_machine_share_the_budget(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for where, section in {
        "ram": CacheSection(budget_gb=1e-3),
        "disk": CacheSection(where="disk", budget_gb=1e-3, dir=str(tmp_path)),
    }.items():
        store = open_store(section, {}, STATES, HIDDEN, torch.float32)
        kept = sum(store.add(make_key(each), make_states(each, 8)) for each in range(300))
        share = 1e-3 * 1024**3 / 4
        assert 0.8 * share < kept * STATES * HIDDEN * 8 * 4 <= share, where
        store.close()
    assert "in each of 4 processes" in caplog.text


@pytest.mark.parametrize(("dtype", "part"), [(torch.float32, "rounds"), (torch.float16, "would save nothing")])
def test_the_effect_of_bf16_is_logged(caplog: pytest.LogCaptureFixture, dtype: torch.dtype, part: str) -> None:
    open_store(CacheSection(dtype="bf16", budget_gb=1), {}, STATES, HIDDEN, dtype)
    assert sum(part in record.message for record in caplog.records) == 1


def test_the_default_folder_is_in_the_projects_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_NS_CACHE", str(tmp_path / "own"))
    open_store(CacheSection(where="disk"), {}, STATES, HIDDEN, torch.float32).close()
    assert list((tmp_path / "own" / "qst_cache").glob("*/identity.json"))
