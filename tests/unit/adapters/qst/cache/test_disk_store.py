from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from utils.adapters.qst.cache.disk_store import DiskStore
from utils.adapters.qst.cache.row_store import open_store
from utils.adapters.qst.cache.section import CacheSection
from utils.errors import UserError

STATES, HIDDEN = 3, 16
ROOT = Path(__file__).parents[5]


def make_key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def make_states(number: int, num_tokens: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(STATES, num_tokens or 1 + number % 9, HIDDEN, generator=generator)


def open_at(
    folder: Path, rank: int = 0, model: str = "m", budget_gb: float | None = 0.5, dtype: str = "auto"
) -> DiskStore:
    section = CacheSection(where="disk", dir=str(folder), budget_gb=budget_gb, dtype=dtype)
    store = open_store(section, {"model": model}, STATES, HIDDEN, torch.float32, rank=rank)
    assert isinstance(store, DiskStore)
    return store


def fill(store: DiskStore, numbers: range) -> None:
    assert all(store.add(make_key(each), make_states(each)) for each in numbers)


def is_exact(store: DiskStore, number: int) -> bool:
    found = store.read(make_key(number))
    return found is not None and torch.equal(found, make_states(number))


def run_in_child(work: Callable[[], Any]) -> int:
    """Run in a forked process, and give its exit status; 0: what it did held."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.adapters.qst.cache.disk_store._SECONDS_BETWEEN_LOOKS", 0.0)


def test_later_runs_reuse_the_rows_of_all_ranks(tmp_path: Path) -> None:
    for rank in range(4):
        store = open_at(tmp_path, rank)
        fill(store, range(rank * 10, rank * 10 + 10))
        store.close()
    for rank in (0, 1, 7):
        store = open_at(tmp_path, rank)
        assert store.num_rows == 40
        assert all(is_exact(store, each) for each in range(40))
        store.close()
    assert len(list(tmp_path.iterdir())) == 1
    identity = json.loads(next(tmp_path.glob("*/identity.json")).read_text())
    assert identity["identity"] == {"model": "m"}
    assert identity["rows"] == {"kind": "exact", "num_states": STATES, "hidden_size": HIDDEN, "dtype": "float32"}


def test_each_identity_and_dtype_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for model, dtype in (("m", "auto"), ("n", "auto"), ("m", "int8"), ("m", "bf16")):
        store = open_at(tmp_path, model=model, dtype=dtype)
        assert store.num_rows == 0
        fill(store, range(3))
        store.close()
    assert len(list(tmp_path.iterdir())) == 4


def test_processes_write_side_by_side_and_see_each_other(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    fill(first, range(5))
    assert all(is_exact(second, each) or make_key(each) in second for each in range(5))
    fill(second, range(10))
    assert {path.name for path in tmp_path.glob("*/rank*.bin")} == {"rank0.bin", "rank1.bin"}
    assert all(make_key(each) in first and is_exact(first, each) for each in range(10))
    third = open_at(tmp_path, rank=1)
    fill(third, range(12))
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*/rank*.bin"))]
    assert len(sizes) == 3
    assert sum(sizes) < 2 * sum(make_states(each).nbytes for each in range(12))  # nothing stands there twice
    for store in (first, second, third):
        store.close()
    assert open_at(tmp_path).num_rows == 12


def test_a_dead_processs_files_are_continued(tmp_path: Path) -> None:
    def die_without_closing() -> None:
        fill(open_at(tmp_path), range(5))

    for _ in range(3):
        assert run_in_child(die_without_closing) == 0
    store = open_at(tmp_path)
    fill(store, range(8))
    assert [path.name for path in tmp_path.glob("*/rank*.bin")] == ["rank0.bin"]
    assert all(is_exact(store, each) for each in range(8))


def test_a_forked_process_does_not_keep_the_files(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    if (pid := os.fork()) == 0:
        time.sleep(60)  # as a worker that loads data and outlives the store
        os._exit(0)
    store.close()
    fill(open_at(tmp_path), range(3))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [path.name for path in tmp_path.glob("*/rank*.bin")] == ["rank0.bin"]


def test_a_kill_in_the_middle_of_writing_leaves_a_folder_that_opens_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    num_tokens, held = 20_000, 0  # 3.8 MB a row: the kill falls into a write

    def write_for_ever(descriptor: int) -> None:
        store = open_at(tmp_path)
        for each in range(store.num_rows, 1000):
            assert store.add(make_key(each), make_states(each, num_tokens))
            os.write(descriptor, b".")

    for turn in range(4):
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            write_for_ever(writing)
        os.read(reading, 1)
        time.sleep(0.02 + 0.017 * turn)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        os.close(writing)
        held += 1 + len(os.read(reading, 1000))
        os.close(reading)
        store = open_at(tmp_path)
        assert held <= store.num_rows <= held + 1  # one may be whole without having been reported
        held = store.num_rows
        for each in range(held):
            found = store.read(make_key(each))
            assert found is not None
            assert torch.equal(found, make_states(each, num_tokens))
        store.close()
    assert not caplog.records  # a row's record never stands there before its bytes


def test_reading_does_not_grow_the_process(tmp_path: Path) -> None:
    store, process = open_at(tmp_path), psutil.Process()
    for each in range(20):
        store.add(make_key(each), make_states(each, 20_000))
    out = torch.zeros(STATES, 20_000, HIDDEN)
    before = process.memory_info().shared
    assert all(store.read_into(make_key(each), out) for each in range(20))
    assert process.memory_info().shared - before < 8e6  # of 77 MB
    store.close()


def test_the_budget_counts_the_files_with_those_of_earlier_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    budget = 125 * (192 + 48) + 63  # bytes of a row and of its record; the index begins with 64 more
    for start in (0, 1000):
        store = open_at(tmp_path, budget_gb=budget / 1024**3)
        kept = [store.add(make_key(each), make_states(each, 1)) for each in range(start, start + 200)]
        store.close()
        taken = sum(path.stat().st_size for path in tmp_path.glob("*/rank*"))
        assert budget - 1000 < taken <= budget
        assert any(kept) == (start == 0)
    assert sum("peft.cache.budget_gb is used up" in record.message for record in caplog.records) == 2


def test_the_default_budget_is_most_of_what_is_free(tmp_path: Path) -> None:
    store = open_at(tmp_path, budget_gb=None)
    assert store.allowance == pytest.approx(0.9 * psutil.disk_usage(str(tmp_path)).free, rel=0.02)


def test_a_file_size_limit_stops_storing_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import resource

    def write_to_the_limit() -> None:
        store = open_at(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        logging.basicConfig(stream=sys.stderr, force=True)
        kept = [store.add(make_key(each), make_states(each)) for each in range(100)]
        assert kept.index(False) > 5
        assert not any(kept[kept.index(False) :])  # storing has stopped, for smaller rows too
        assert all(is_exact(store, each) == kept[each] for each in range(100))
        assert (store.folder / "rank0.bin").stat().st_size < 20_000  # the part of a row is gone
        store.close()

    assert run_in_child(write_to_the_limit) == 0
    assert capfd.readouterr().err.count("takes no more (File too large)") == 1
    store = open_at(tmp_path)
    assert store.num_rows > 5
    assert all(is_exact(store, each) for each in range(store.num_rows))
    fill(store, range(100))
    assert all(is_exact(store, each) for each in range(100))


FULL_DISK = """
import sys, torch
sys.path.insert(0, {root!r})
from utils.adapters.qst.cache.section import CacheSection
from utils.adapters.qst.cache.row_store import open_store
section = CacheSection(where="disk", dir={folder!r}, budget_gb=1)
for turn in range(2):
    store = open_store(section, {{}}, 3, 16, torch.float32)
    kept = []
    for each in range(80):
        states = torch.full((3, 200, 16), float(each))
        kept.append(store.add(each.to_bytes(16, "big"), states))
        found = store.read(each.to_bytes(16, "big"))
        assert (found is not None) == kept[-1] and (found is None or torch.equal(found, states))
    assert 15 < sum(kept) < 30, kept
    assert sum(kept) == kept.index(False)
    store.close()
"""


def test_a_disk_that_is_full_stops_storing_and_nothing_else(tmp_path: Path) -> None:
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK.format(root=str(ROOT), folder=str(tmp_path / "small" / "cache")))
    (tmp_path / "small").mkdir()
    tmpfs = f"mount -t tmpfs -o size=1m none {tmp_path}/small"
    try:
        if subprocess.run([*mount, tmpfs], capture_output=True, check=False).returncode != 0:
            pytest.skip("a small file system cannot be mounted here")
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    done = subprocess.run(
        [*mount, f"{tmpfs} && {sys.executable} {script}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("takes no more (No space left on device)") == 2


def test_a_folder_that_cannot_be_used_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"peft\.cache\.dir: .*/file cannot be used \(.*\); name a folder"):
        open_at(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_of_another_user_is_the_users_mistake(mode: int) -> None:
    # Not in tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        closed = Path(parent) / "closed"
        closed.mkdir()
        closed.chmod(mode)

        def open_closed() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            with pytest.raises(UserError, match=r"peft\.cache\.dir: .*/closed cannot be used \(Permission denied\)"):
                open_at(closed)

        status = run_in_child(open_closed)
        closed.chmod(0o755)
        assert status == 0
