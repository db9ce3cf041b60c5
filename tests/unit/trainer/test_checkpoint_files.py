"""Which checkpoints are complete, which may be removed, and where the best one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.trainer.checkpoint_files import (
    find_checkpoints,
    link_best,
    mark_checkpoint,
    rotate_checkpoints,
    set_aside_later,
)


def make(folder: Path, *steps: int, extra: tuple[int, ...] = (), state: str = '{"global_step": 1}') -> None:
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
        mark_checkpoint(folder, step, step in extra)


def left(folder: Path) -> list[int]:
    return [int(each.name.split("-")[1]) for each in find_checkpoints(folder)]


def test_a_torn_checkpoint_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, 2, 10)
    make(tmp_path, 20, state='{"global_st')
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert left(tmp_path) == [2, 10]


@pytest.mark.parametrize(
    ("limit", "best", "expected"),
    [
        (None, 3, [3, 4, 8, 12]),  # 6, 9 were for evaluations only
        (2, 3, [3, 12]), (1, 3, [3, 12]), (1, 12, [12]), (3, 4, [4, 8, 12]), (2, 9, [9, 12]), (0, 9, [4, 8, 9, 12]),
    ],
)  # fmt: skip
def test_the_best_and_the_newest_checkpoint_are_kept(
    tmp_path: Path, limit: int | None, best: int, expected: list[int]
) -> None:
    make(tmp_path, 3, 4, 6, 8, 9, 12, extra=(3, 6, 9, 12))
    rotate_checkpoints(tmp_path, limit, [tmp_path / f"checkpoint-{best}"])
    assert left(tmp_path) == expected


def test_a_checkpoint_that_becomes_due_is_kept_like_others(tmp_path: Path) -> None:
    make(tmp_path, 3, 4, extra=(3,))
    mark_checkpoint(tmp_path, 3, only_for_evaluation=False)
    rotate_checkpoints(tmp_path, None, [])
    assert left(tmp_path) == [3, 4]


def test_the_link_follows_the_best(tmp_path: Path) -> None:
    make(tmp_path, 3, 4)
    link_best(tmp_path, None)
    for step in (3, 4):
        link_best(tmp_path, tmp_path / f"checkpoint-{step}")
        assert (tmp_path / "best_model").resolve().name == f"checkpoint-{step}"
    link_best(tmp_path, None)
    assert not (tmp_path / "best_model").is_symlink()


def test_later_checkpoints_are_moved_not_removed(tmp_path: Path) -> None:
    make(tmp_path, 3, 4, 8)
    assert [each.name for each in set_aside_later(tmp_path, 3, tmp_path / "aside")] == ["checkpoint-4", "checkpoint-8"]
    assert left(tmp_path) == [3]
    assert left(tmp_path / "aside") == [4, 8]
    assert set_aside_later(tmp_path, 3, tmp_path / "other") == []
    assert not (tmp_path / "other").exists()
