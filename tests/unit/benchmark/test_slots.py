"""Slots: one for each GPU, or as many as are asked for; a run sees its own GPU and no launcher."""

from __future__ import annotations

import pytest

from utils.benchmark.slots import Slot, list_slots


def test_one_for_each_visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7")
    assert [slot.gpu for slot in list_slots(None)] == ["2", "GPU-7"]
    assert [slot.gpu for slot in list_slots(1)] == ["2"]


def test_more_jobs_than_gpus_share_them_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [slot.gpu for slot in list_slots(3)] == ["0", "1", "0"]
    assert "times are not those of a run alone" in caplog.text


def test_without_a_gpu_the_cores_are_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert list_slots(None) == [Slot(0)]
    assert list_slots(3) == [Slot(0, None, 2), Slot(1, None, 2), Slot(2, None, 2)]


def test_the_environment_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = Slot(0, "3", 2).build_environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert not {"WORLD_SIZE", "RANK"} & environment.keys()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Slot(0, None, 2).build_environment()["OMP_NUM_THREADS"] == "5"
