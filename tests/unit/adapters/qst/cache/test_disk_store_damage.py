from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from utils.adapters.qst.cache.disk_store import DiskStore
from utils.adapters.qst.cache.row_codec import RowCodec, build_codec

CODEC = build_codec("auto", 3, 8, torch.float32)
NUMBERS = range(6)


def make_key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def make_states(number: int) -> torch.Tensor:
    return torch.randn(3, 1 + number % 4, 8, generator=torch.Generator().manual_seed(number))


def open_at(folder: Path, number: int = 0, model: str = "m", codec: RowCodec = CODEC, write: bool = True) -> DiskStore:
    store = DiskStore(folder, {"model": model}, codec, number)
    if write:
        store.start_writing(10**9)
    return store


def count_exact(store: DiskStore) -> int:
    """Count the rows that come back, each of which must be right."""
    exact = 0
    for each in NUMBERS:
        out = torch.full_like(states := make_states(each), 5.0)
        if store.read_into(make_key(each), out):
            assert torch.equal(out, states), f"row {each} came back wrong"
            exact += 1
        else:
            assert bool((out == 5).all()), "what is damaged was written into the batch"
            assert make_key(each) not in store
    return exact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with six rows, two of them of another rank."""
    for number, rows in ((0, NUMBERS[:4]), (1, NUMBERS[4:])):
        store = open_at(tmp_path, number)
        assert all(store.add(make_key(each), make_states(each)) for each in rows)
        store.close()
    return store.folder


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.adapters.qst.cache.disk_store._SECONDS_BETWEEN_LOOKS", 0.0)


def repair(folder: Path, number: int = 0) -> None:
    """Do as a run does: compute anew what is missing; afterwards everything is there, now and for the next run."""
    store = open_at(folder.parent, number)
    for each in NUMBERS:
        out = torch.empty_like(make_states(each))
        if not store.read_into(make_key(each), out):
            assert store.add(make_key(each), make_states(each))
    assert count_exact(store) == len(NUMBERS)
    store.close()
    assert count_exact(open_at(folder.parent, write=False)) == len(NUMBERS)


@pytest.mark.parametrize("name", ["rank0.index", "rank0.bin"])
def test_no_flipped_byte_gives_a_wrong_row(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    seen = set()
    for place in range(len(whole)):
        for flip in (0x01, 0xFF):
            (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            seen.add(count_exact(open_at(folder.parent, write=False)))
    assert seen == ({2, 5} if name == "rank0.index" else {5, 6})  # 6: a byte between two rows


@pytest.mark.parametrize("name", ["rank0.index", "rank0.bin"])
def test_no_cut_gives_a_wrong_row(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    counts = []
    for length in range(len(whole)):
        (folder / name).write_bytes(whole[:length])
        counts.append(count_exact(open_at(folder.parent, write=False)))
    assert counts == sorted(counts)
    assert set(counts) == {2, 3, 4, 5}


@pytest.mark.parametrize("name", ["rank0.index", "rank0.bin", "rank1.index", "rank1.bin"])
def test_damage_is_repaired_by_the_next_run(folder: Path, name: str, tmp_path: Path) -> None:
    whole = (folder / name).read_bytes()
    for turn, place in enumerate(range(0, len(whole), 13)):
        copy = tmp_path / str(turn) / folder.name
        shutil.copytree(folder, copy)
        damaged = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        (copy / name).write_bytes(damaged if turn % 2 else whole[:place])
        repair(copy)
    for missing in ("rank0.index", "rank0.bin", "rank1.bin"):
        shutil.copytree(folder, copy := tmp_path / f"no_{missing}" / folder.name)
        (copy / missing).unlink()
        repair(copy)


def test_repairing_again_and_again_does_not_grow_the_files(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = bytearray((folder / "rank0.bin").read_bytes())
    content[10] ^= 1
    (folder / "rank0.bin").write_bytes(content)
    repair(folder)
    size, warned = (folder / "rank0.bin").stat().st_size, len(caplog.records)
    assert warned
    for _ in range(3):
        repair(folder)
    assert (folder / "rank0.bin").stat().st_size == size
    assert len(caplog.records) == warned  # the damaged row is no longer in the index


@pytest.mark.parametrize(("damaged", "own"), [(0, 1), (1, 0)])
def test_a_copy_is_read_where_another_ranks_row_is_damaged(folder: Path, damaged: int, own: int) -> None:
    content = bytearray((folder / f"rank{damaged}.bin").read_bytes())
    content[5] ^= 1
    (folder / f"rank{damaged}.bin").write_bytes(content)
    repair(folder, own)
    size = (folder / f"rank{own}.bin").stat().st_size
    repair(folder, own)
    assert (folder / f"rank{own}.bin").stat().st_size == size


def test_damage_while_a_run_goes_on_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_at(folder.parent)
    for name in ("rank0.bin", "rank1.bin"):
        content = bytes(byte ^ 0x40 for byte in (folder / name).read_bytes())
        with (folder / name).open("r+b") as file:
            file.write(content)
    assert count_exact(store) == 0
    assert sum("a row is damaged; it is computed anew" in record.message for record in caplog.records) == 1
    store.close()
    assert "6 rows in all were damaged" in caplog.text


def test_a_file_cut_under_a_run_kills_nobody(folder: Path) -> None:
    store = open_at(folder.parent)
    assert count_exact(store) == 6
    os.truncate(folder / "rank0.bin", 0)
    assert count_exact(store) == 2
    os.truncate(folder / "rank1.bin", 40)
    assert count_exact(store) == 0


def test_a_file_cut_and_grown_again_gives_no_zeros(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    for each in NUMBERS[:3]:
        store.add(make_key(each), make_states(each))
    assert count_exact(store) == 3
    os.truncate(store.folder / "rank0.bin", 100)
    for each in NUMBERS[3:]:
        assert store.add(make_key(each), make_states(each))
    assert count_exact(store) == 4
    store.close()
    repair(store.folder)


def test_bytes_that_another_program_wrote_are_kept(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    assert store.add(make_key(0), make_states(0))
    with (store.folder / "rank0.bin").open("ab") as file:
        file.write(b"x" * 1000)
    assert store.add(make_key(1), make_states(1))
    store.close()
    assert (store.folder / "rank0.bin").read_bytes().count(b"x" * 1000) == 1
    assert count_exact(open_at(tmp_path)) == 2


def test_files_that_vanish_under_a_run_are_no_error(folder: Path) -> None:
    store = open_at(folder.parent)
    assert count_exact(store) == 6
    shutil.rmtree(folder)
    assert count_exact(store) == 6
    assert store.add(make_key(77), torch.ones(3, 2, 8))
    assert store.read(make_key(77)) is not None
    store.close()


def test_another_backbones_files_are_left_aside_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = open_at(folder.parent, model="other")
    other.close()
    for path in folder.glob("rank*.*"):
        shutil.copy(path, other.folder / path.name)
    store = open_at(folder.parent, model="other", write=False)
    assert store.num_rows == 0
    assert (
        sum("it belongs to another backbone; its rows are computed anew" in each.message for each in caplog.records)
        == 2
    )
    store.start_writing(10**9)
    store.add(make_key(1), make_states(1))
    store.close()
    again = open_at(folder.parent, model="other", write=False)
    assert again.num_rows == 1
    assert count_exact(again) == 1
    assert count_exact(open_at(folder.parent)) == 6


def test_records_of_another_backbone_do_not_fit(folder: Path) -> None:
    other = open_at(folder.parent, model="other")
    other.add(make_key(77), make_states(0))
    other.close()
    theirs = (other.folder / "rank0.index").read_bytes()[64:]
    ours = (folder / "rank0.index").read_bytes()
    (folder / "rank0.index").write_bytes(ours + theirs)
    store = open_at(folder.parent, write=False)
    assert make_key(77) not in store
    assert count_exact(store) == 6


def test_another_layouts_files_are_left_aside_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in folder.glob("rank*.index"):
        content = bytearray(path.read_bytes())
        content[8:12] = (2).to_bytes(4, "little")
        path.write_bytes(content)
    assert open_at(folder.parent, write=False).num_rows == 0
    assert "it has layout 2, not 1" in caplog.text
    repair(folder)


@pytest.mark.parametrize("content", [b"", b"{", b'{"identity": {"model": "n"}}'])
def test_a_stale_identity_is_said_and_written_anew(
    folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    right = (folder / "identity.json").read_bytes()
    (folder / "identity.json").write_bytes(content)
    store = open_at(folder.parent)
    assert "identity.json is not this cache's" in caplog.text
    assert (folder / "identity.json").read_bytes() == right
    assert count_exact(store) == 6


def test_a_file_replaced_under_a_reader_is_read_anew(folder: Path) -> None:
    (folder / "rank1.index").write_bytes(b"nonsense")
    reader = open_at(folder.parent)
    assert reader.num_rows == 4
    writer = open_at(folder.parent, 1)
    assert all(writer.add(make_key(each), make_states(each)) for each in NUMBERS[4:])
    assert all(make_key(each) in reader for each in NUMBERS[4:])
    assert count_exact(reader) == 6
    assert count_exact(writer) == 6


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_no_flipped_byte_gives_a_wrong_row_of_other_kinds(tmp_path: Path, kind: str) -> None:
    codec = build_codec(kind, 3, 8, torch.float32)
    store = open_at(tmp_path, codec=codec)
    store.add(make_key(3), make_states(3))
    right = store.read(make_key(3))
    store.close()
    data = store.folder / "rank0.bin"
    whole = data.read_bytes()
    assert right is not None
    for place in range(len(whole)):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        assert open_at(tmp_path, codec=codec, write=False).read(make_key(3)) is None
    data.write_bytes(whole)
    found = open_at(tmp_path, codec=codec, write=False).read(make_key(3))
    assert found is not None
    assert torch.equal(found, right)
