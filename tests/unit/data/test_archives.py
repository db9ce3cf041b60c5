"""A zip of rows is extracted into the cache, and nothing is written outside it."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from utils.core.errors import DataError
from utils.data import sources
from utils.data.sources import unpack_rows


def write_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def test_an_archive_is_extracted_flat_and_once(tmp_path):
    path = write_zip(
        tmp_path / "a.zip", {"data/x.jsonl": "{}\n", "readme.txt": "no", "__MACOSX/data/._x.jsonl": "no", "y.jsonl": ""}
    )
    folder = unpack_rows(path)
    assert sorted(file.name for file in folder.iterdir()) == ["x.jsonl", "y.jsonl"]
    (folder / "mark").touch()
    assert (unpack_rows(path) / "mark").exists()


@pytest.mark.parametrize("name", ["../x.jsonl", "/tmp/x.jsonl", "data/../../x.jsonl", "..\\x.jsonl", "C:/x.jsonl"])
def test_a_path_outside_the_folder_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {"good.jsonl": "{}\n", name: "{}\n"})
    with pytest.raises(DataError, match="a path that leads out of the folder"):
        unpack_rows(path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_link_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("x.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"a link, 'x.jsonl'"):
        unpack_rows(path)


def test_files_that_are_not_a_zip_of_rows_are_refused(tmp_path, monkeypatch):
    text = tmp_path / "text.zip"
    text.write_text("no zip")
    with pytest.raises(DataError, match="not a whole zip"):
        unpack_rows(text)
    with pytest.raises(DataError, match=r"holds no \.jsonl file"):
        unpack_rows(write_zip(tmp_path / "empty.zip", {"a.txt": ""}))
    with pytest.raises(DataError, match=r"two files x.jsonl"):
        unpack_rows(write_zip(tmp_path / "twice.zip", {"a/x.jsonl": "", "b/x.jsonl": ""}))
    monkeypatch.setattr(sources, "_MAX_BYTES", 10)
    with pytest.raises(DataError, match="would unpack to"):
        unpack_rows(write_zip(tmp_path / "large.zip", {"x.jsonl": "1" * 11}))


def test_a_truncated_zip_leaves_no_files(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"x.jsonl": "torn" * 999})
    content = bytearray(path.read_bytes())
    content[50:60] = b"\0" * 10
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DataError, match="not a whole zip"):
            unpack_rows(path)
