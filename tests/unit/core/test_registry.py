"""The directory is the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.core import registry


def test_names() -> None:
    assert registry.normalize(" Prefix-Tuning ") == "prefix_tuning"


@pytest.mark.parametrize(
    ("package", "some"),
    [("adapters", {"lora", "none", "head_only"}), ("datasets", {"glue", "custom"}), ("metrics", {"f1"})],
)
def test_rooms_are_the_files_with_a_marker(package: str, some: set[str]) -> None:
    listed = registry.names(package)
    assert some <= set(listed)
    assert list(listed) == sorted(listed)
    assert not {"adapter", "dataset", "metric", "__init__", package} & set(listed)
    assert all(registry.load(package, name) for name in listed)


def test_a_new_file_or_folder_is_a_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "adapters"
    (package / "folder").mkdir(parents=True)
    (package / "__init__.py").write_text("class Config: ...\n")
    (package / "folder" / "__init__.py").write_text("class Config: ...\n")
    (package / "folder" / "inner.py").write_text("class Config: ...\n")
    (package / "file.py").write_text("x = 1\nclass Config(Base): ...\n")
    (package / "rows.py").write_text('TABLE: dict[str, int] = {"first": 1, "second": 2}\n')
    (package / "other.py").write_text("class Configuration: ...\n# class Config\ndef f():\n    class Config: ...\n")
    monkeypatch.setattr(registry, "LIBRARY", tmp_path)
    registry._find_homes.cache_clear()
    try:
        assert registry.names("adapters") == ("file", "first", "folder", "second")
    finally:
        registry._find_homes.cache_clear()


@pytest.mark.parametrize("value", ["", "../lora", "lora.Config", "__init__", "adapter", "os"])
def test_what_is_no_room_is_not_opened(value: str) -> None:
    assert not registry.has("adapters", value)
    with pytest.raises(KeyError):
        registry.load("adapters", value)


def test_hyphens_and_case_do_not_matter() -> None:
    assert registry.load("adapters", "Head-Only") is registry.load("adapters", "head_only")
