"""--gpu: which GPUs a command sees, and its relaunch through torchrun."""

from __future__ import annotations

import os

import pytest

from utils.cli import gpus
from utils.cli.gpus import select_gpus
from utils.core.errors import UserError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Set up a machine with two GPUs on which a relaunch is recorded instead of run."""
    launched: list[list[str]] = []
    monkeypatch.setattr(gpus, "_count_gpus", lambda: 2)
    monkeypatch.setattr(os, "execv", lambda program, words: launched.append(words))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return launched


def test_one_gpu_is_made_visible(two_gpus: list[list[str]]) -> None:
    select_gpus("1", "train.py", ["--gpu", "1"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert two_gpus == []


def test_several_gpus_relaunch_without_the_option(two_gpus: list[list[str]]) -> None:
    select_gpus("0, 1", "train.py", ["--config", "x.yaml", "--gpu", "0, 1", "seed=1", "--gpu=0,1"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    words = two_gpus[0]
    assert words[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc_per_node=2" in words
    assert words[-4:] == ["train.py", "--config", "x.yaml", "seed=1"]


def test_without_the_option_or_in_a_launched_process_nothing_changes(
    two_gpus: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    select_gpus(None, "train.py", [])
    monkeypatch.setenv("LOCAL_RANK", "1")
    select_gpus("0,1", "train.py", ["--gpu", "0,1"])
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert two_gpus == []


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("abc", "--gpu abc: 'abc' is not a GPU index; write --gpu 0 or --gpu 0,1"),
        ("", "--gpu : '' is not a GPU index"),
        ("0,", "--gpu 0,: '' is not a GPU index"),
        ("-1", "--gpu -1: '-1' is not a GPU index"),
        ("\u00b2", "'\u00b2' is not a GPU index"),
        ("2", "--gpu 2: there is no GPU 2; this machine has GPUs 0 to 1"),
        ("0,5", "--gpu 0,5: there is no GPU 5"),
        ("1,1", "--gpu 1,1: one GPU is named twice"),
    ],
)
def test_a_wrong_gpu_is_refused_in_one_sentence(choice: str, sentence: str, two_gpus: list[list[str]]) -> None:
    with pytest.raises(UserError) as caught:
        select_gpus(choice, "train.py", [])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_gpus_are_chosen_among_those_the_scheduler_left_visible(
    two_gpus: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    select_gpus("1", "train.py", [])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="this machine has no NVIDIA GPU"):
        select_gpus("0", "train.py", [])


def test_no_gpu_at_all(two_gpus: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_count_gpus", lambda: 0)
    with pytest.raises(UserError, match="--gpu 0: there is no GPU 0; this machine has no NVIDIA GPU"):
        select_gpus("0", "train.py", [])
