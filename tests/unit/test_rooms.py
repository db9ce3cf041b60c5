"""The directory is the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils import rooms
from utils.rooms import has_room, list_rooms, open_room, room_name


def test_names() -> None:
    assert room_name(" Prefix-Tuning ") == "prefix_tuning"


@pytest.mark.parametrize(
    ("floor", "some"), [("adapters", {"lora", "none", "head_only"}), ("data", {"glue", "custom"}), ("metrics", {"f1"})]
)
def test_rooms_are_the_files_with_a_marker(floor: str, some: set[str]) -> None:
    listed = list_rooms(floor)
    assert some <= set(listed)
    assert list(listed) == sorted(listed)
    assert not {"adapter", "dataset", "metric", "__init__", floor} & set(listed)
    assert all(open_room(floor, name) for name in listed)


def test_a_new_file_or_folder_is_a_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floor = tmp_path / "adapters"
    (floor / "folder").mkdir(parents=True)
    (floor / "__init__.py").write_text("class Config: ...\n")
    (floor / "folder" / "__init__.py").write_text("class Config: ...\n")
    (floor / "folder" / "inner.py").write_text("class Config: ...\n")
    (floor / "file.py").write_text("x = 1\nclass Config(Base): ...\n")
    (floor / "rows.py").write_text('TABLE: dict[str, int] = {"first": 1, "second": 2}\n')
    (floor / "other.py").write_text("class Configuration: ...\n# class Config\ndef f():\n    class Config: ...\n")
    monkeypatch.setattr(rooms, "LIBRARY", tmp_path)
    rooms._find_homes.cache_clear()
    try:
        assert list_rooms("adapters") == ("file", "first", "folder", "second")
    finally:
        rooms._find_homes.cache_clear()


@pytest.mark.parametrize("value", ["", "../lora", "lora.Config", "__init__", "adapter", "os"])
def test_what_is_no_room_is_not_opened(value: str) -> None:
    assert not has_room("adapters", value)
    with pytest.raises(KeyError):
        open_room("adapters", value)


def test_hyphens_and_case_do_not_matter() -> None:
    assert open_room("adapters", "Head-Only") is open_room("adapters", "head_only")
