"""Rows on disk: reused by later runs, shared by processes, and either complete or absent."""

from __future__ import annotations

import json
import logging
import os
import shutil
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

from utils.adapters.qst.cache import CacheSection
from utils.adapters.qst.cache.disk_store import DiskStore
from utils.adapters.qst.cache.open_store import open_store
from utils.core.errors import UserError

STATES, HIDDEN = 3, 16
ROOT = Path(__file__).parents[5]


def make_key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def make_states(number: int, num_tokens: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(STATES, num_tokens or 1 + number % 9, HIDDEN, generator=generator)


def open_at(folder: Path, model: str = "m", budget_gb: float | None = 0.5, dtype: str = "auto") -> DiskStore:
    section = CacheSection(where="disk", dir=str(folder), budget_gb=budget_gb, dtype=dtype)
    store = open_store(section, {"model": model}, STATES, HIDDEN, torch.float32)
    assert isinstance(store, DiskStore)
    return store


def fill(store: DiskStore, numbers: range) -> None:
    assert all(store.add(make_key(each), make_states(each)) for each in numbers)


def count_exact(store: DiskStore, numbers: range) -> int:
    """Count the rows found in the store, checking that each is exact and that misses leave the batch unchanged."""
    exact = 0
    for each in numbers:
        out = torch.full_like(states := make_states(each), 5.0)
        if store.read_into(make_key(each), out):
            assert torch.equal(out, states), f"row {each} came back wrong"
            exact += 1
        else:
            assert bool((out == 5).all()), "damaged data was written into the batch"
            assert make_key(each) not in store
    return exact


def find_file(folder: Path, number: int) -> Path:
    [path] = folder.glob(f"**/{make_key(number).hex()}.safetensors")
    return path


def run_in_child(work: Callable[[], Any]) -> int:
    """Run a function in a forked process and return its exit status; 0 means that its assertions held."""
    if (pid := os.fork()) == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def test_later_runs_reuse_the_rows_of_all_processes(tmp_path: Path) -> None:
    for process in range(4):
        store = open_at(tmp_path)
        fill(store, range(process * 10, process * 10 + 10))
        store.close()
    store = open_at(tmp_path)
    assert store.num_rows == 40
    assert count_exact(store, range(40)) == 40
    assert torch.equal(store.read(make_key(7)), make_states(7))
    assert store.num_bytes == sum(path.stat().st_size for path in tmp_path.glob("**/*.safetensors"))
    assert len(list(tmp_path.iterdir())) == 1
    identity = json.loads(next(tmp_path.glob("*/identity.json")).read_text())
    assert identity["identity"] == {"model": "m"}
    assert identity["rows"] == {"kind": "exact", "num_states": STATES, "hidden_size": HIDDEN, "dtype": "float32"}


def test_each_identity_and_dtype_has_its_own_folder(tmp_path: Path) -> None:
    for model, dtype in (("m", "auto"), ("n", "auto"), ("m", "int8"), ("m", "bf16")):
        store = open_at(tmp_path, model=model, dtype=dtype)
        assert store.num_rows == 0
        fill(store, range(3))
    assert len(list(tmp_path.iterdir())) == 4


def test_concurrent_processes_see_each_others_rows(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path)
    assert run_in_child(lambda: fill(first, range(200))) == 0
    assert count_exact(second, range(200)) == 200
    fill(second, range(210))
    assert len(list(tmp_path.glob("**/*.safetensors"))) == 210, "no row is stored twice"
    assert count_exact(first, range(210)) == 210


def test_a_row_is_a_safetensors_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    fill(open_at(tmp_path), range(4))
    fill(store := open_at(tmp_path, dtype="int8"), range(4))
    assert torch.equal(load_file(find_file(tmp_path / open_at(tmp_path).folder, 3))["states"], make_states(3))
    parts = load_file(find_file(store.folder, 3))
    assert (parts["states"] * parts["scales"] - make_states(3)).abs().max() < 0.05


def test_a_kill_while_writing_leaves_only_complete_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    num_tokens, held = 20_000, 0  # 3.8 MB per row: the kill happens during a write

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
        assert held <= store.num_rows <= held + 1  # one may be complete without having been reported
        held = store.num_rows
        for each in range(held):
            assert torch.equal(store.read(make_key(each)), make_states(each, num_tokens))
    assert not caplog.records


def test_leftovers_of_a_killed_process_are_removed_after_an_hour(tmp_path: Path) -> None:
    fill(store := open_at(tmp_path), range(2))
    old, new = (find_file(store.folder, each).with_suffix(".0.part") for each in range(2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert open_at(tmp_path).num_rows == 2
    assert (old.exists(), new.exists()) == (False, True)


def test_the_budget_counts_the_files_of_earlier_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for start in (0, 1000):
        store = open_at(tmp_path, budget_gb=50_000 / 1024**3)
        kept = [store.add(make_key(each), make_states(each, 1)) for each in range(start, start + 200)]
        store.close()
        taken = sum(path.stat().st_size for path in tmp_path.glob("**/*.safetensors"))
        assert 49_000 < taken <= 50_000
        assert any(kept) == (start == 0)
    assert sum("peft.cache.budget_gb is used up" in record.message for record in caplog.records) == 2


def test_the_default_budget_is_most_of_the_free_space(tmp_path: Path) -> None:
    store = open_at(tmp_path, budget_gb=None)
    assert store.allowance == pytest.approx(0.9 * psutil.disk_usage(str(tmp_path)).free, rel=0.02)


def test_a_file_size_limit_stops_only_storing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import resource

    def write_to_the_limit() -> None:
        store = open_at(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_200, 1_200))
        logging.basicConfig(stream=sys.stderr, force=True)
        kept = [store.add(make_key(each), make_states(each, 1 + each)) for each in range(20)]
        assert kept.index(False) > 2
        assert not any(kept[kept.index(False) :])  # storing has stopped
        assert all(torch.equal(store.read(make_key(each)), make_states(each, 1 + each)) for each in range(sum(kept)))

    assert run_in_child(write_to_the_limit) == 0
    assert capfd.readouterr().err.count("is full (File too large)") == 1
    assert not list(tmp_path.glob("**/*.part"))


@pytest.mark.parametrize("dtype", ["auto", "bf16", "int8"])
def test_a_flipped_byte_never_gives_a_wrong_row(tmp_path: Path, dtype: str) -> None:
    fill(store := open_at(tmp_path, dtype=dtype), range(2))
    right, path = store.read(make_key(1)), find_file(tmp_path, 1)
    whole, header = path.read_bytes(), path.read_bytes().index(b"}}")
    assert right is not None
    for place in range(len(whole)):
        for flip in (0x01, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            found = open_at(tmp_path, dtype=dtype).read(make_key(1))
            assert found is None or (place > header and torch.equal(found, right) and whole[place : place + 1] == b" ")


def test_a_truncated_file_never_gives_a_wrong_row(tmp_path: Path) -> None:
    fill(open_at(tmp_path), range(2))
    whole = (path := find_file(tmp_path, 1)).read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert open_at(tmp_path).read(make_key(1)) is None
    path.write_bytes(whole + b"more")
    assert open_at(tmp_path).read(make_key(1)) is None


def test_damage_during_a_run_is_reported_once_and_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(store := open_at(tmp_path), range(6))
    for each in (2, 4):
        find_file(tmp_path, each).write_bytes(b"")
    assert count_exact(store, range(6)) == 4
    assert sum("is damaged; the row is computed again" in record.message for record in caplog.records) == 1
    fill(store, range(6))
    assert count_exact(store, range(6)) == 6
    store.close()
    assert "2 rows in all were damaged" in caplog.text
    assert count_exact(open_at(tmp_path), range(6)) == 6


def test_files_deleted_during_a_run_are_rewritten(tmp_path: Path) -> None:
    fill(store := open_at(tmp_path), range(6))
    shutil.rmtree(store.folder)
    assert count_exact(store, range(6)) == 0
    fill(store, range(6))
    assert count_exact(store, range(6)) == 6


def test_rows_of_another_backbone_or_key_are_not_used(tmp_path: Path) -> None:
    fill(ours := open_at(tmp_path), range(2))
    fill(theirs := open_at(tmp_path, model="other"), range(2))
    shutil.copy(find_file(theirs.folder, 1), find_file(ours.folder, 1))
    assert count_exact(ours, range(2)) == 1
    shutil.copy(find_file(ours.folder, 0), find_file(theirs.folder, 1))
    assert count_exact(theirs, range(2)) == 1


FULL_DISK = """
import sys, torch
sys.path.insert(0, {root!r})
from utils.adapters.qst.cache import CacheSection
from utils.adapters.qst.cache.open_store import open_store
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


def test_a_full_disk_stops_only_storing(tmp_path: Path) -> None:
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK.format(root=str(ROOT), folder=str(tmp_path / "small" / "cache")))
    (tmp_path / "small").mkdir()
    tmpfs = f"mount -t tmpfs -o size=1m none {tmp_path}/small"
    try:
        if subprocess.run([*mount, tmpfs], capture_output=True, check=False).returncode != 0:
            pytest.skip("cannot mount a file system here")
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    done = subprocess.run(
        [*mount, f"{tmpfs} && {sys.executable} {script}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is full (No space left on device)") == 2


def test_an_unusable_folder_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"peft\.cache\.dir: .*/file cannot be used \(.*\); name a folder"):
        open_at(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_of_another_user_is_a_config_error(mode: int) -> None:
    # Not in tmp_path, which only its owner can enter.
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
