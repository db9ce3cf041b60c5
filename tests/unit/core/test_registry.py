"""The directory is the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.core import registry
from utils.core.errors import ConfigError


def test_names() -> None:
    assert registry.normalize(" Prefix-Tuning ") == "prefix_tuning"


@pytest.mark.parametrize(
    ("package", "some"),
    [("adapters", {"lora", "none", "head_only"}), ("datasets", {"glue", "custom"}), ("metrics", {"f1"})],
)
def test_plugins_are_the_files_with_a_marker(package: str, some: set[str]) -> None:
    listed = registry.names(package)
    assert some <= set(listed)
    assert list(listed) == sorted(listed)
    assert not {"adapter", "dataset", "metric", "__init__", package} & set(listed)
    assert all(registry.load(package, name) for name in listed)


def test_a_new_file_or_folder_is_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "adapters"
    (package / "folder").mkdir(parents=True)
    (package / "__init__.py").write_text("class Config: ...\n")
    (package / "folder" / "__init__.py").write_text("class Config: ...\n")
    (package / "folder" / "inner.py").write_text("class Config: ...\n")
    (package / "file.py").write_text("x = 1\nclass Config(Base): ...\n")
    (package / "rows.py").write_text('TABLE: dict[str, int] = {"first": 1, "second": 2}\n')
    (package / "other.py").write_text("class Configuration: ...\n# class Config\ndef f():\n    class Config: ...\n")
    monkeypatch.setattr(registry, "LIBRARY", tmp_path)
    registry._clear_caches()
    try:
        assert registry.names("adapters") == ("file", "first", "folder", "second")
    finally:
        registry._clear_caches()


def test_an_added_folder_is_searched_after_the_librarys_own(tmp_path: Path) -> None:
    folder = tmp_path / "lab_of_a_test"
    (folder / "adapters").mkdir(parents=True)
    (folder / "adapters" / "twice.py").write_text(
        "from lab_of_a_test.shared import FACTOR\n\nclass Config:\n    x = FACTOR\n"
    )
    (folder / "shared.py").write_text("FACTOR = 2\n")
    registry.add_folder(folder)
    try:
        assert {"twice", "lora"} <= set(registry.names("adapters"))
        assert registry.load("adapters", "twice").Config.x == 2
    finally:
        registry.remove_folder(folder)
    assert not registry.has("adapters", "twice")
    (folder / "adapters" / "lora.py").write_text("class Config: ...\n")
    with pytest.raises(ConfigError, match="adapters has a plug-in called lora already; rename it"):
        registry.add_folder(folder)
    (tmp_path / "json").mkdir()
    with pytest.raises(ConfigError, match="there already is a module called json"):
        registry.add_folder(tmp_path / "json")
    with pytest.raises(ConfigError, match="no such folder"):
        registry.add_folder(tmp_path / "absent")


@pytest.mark.parametrize("value", ["", "../lora", "lora.Config", "__init__", "adapter", "os"])
def test_files_that_are_not_plugins_are_not_loaded(value: str) -> None:
    assert not registry.has("adapters", value)
    with pytest.raises(KeyError):
        registry.load("adapters", value)


def test_hyphens_and_case_do_not_matter() -> None:
    assert registry.load("adapters", "Head-Only") is registry.load("adapters", "head_only")
