"""Any JSON file is read, or refused in one sentence that gives the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.core.errors import ModelError, UserError
from utils.core.json_files import NotJsonError, find_object, load_object, parse_json

BROKEN = [
    (b"", "not JSON: Expecting value at line 1, column 1"),
    (b'{"a": 1,\n "b"}', "not JSON: Expecting ':' delimiter at line 2, column 5"),
    (b'{"a": "\xff"}', "not UTF-8 text at byte 8"),
    (b"[" * 100_000 + b"]" * 100_000, "lists within lists without end"),
    (b'{"a": ' + b"9" * 6000 + b"}", "a number of thousands of digits"),
]


@pytest.mark.parametrize(("content", "said"), BROKEN)
def test_invalid_json_is_reported(content: bytes, said: str, tmp_path: Path):
    with pytest.raises(NotJsonError) as raised:
        parse_json(content)
    assert said in str(raised.value)
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.json: .*copy the folder again"):
        load_object(file, error=ModelError)
    assert find_object(file) == {}


def test_values_other_than_an_object(tmp_path: Path):
    file = tmp_path / "x.json"
    file.write_text("[1]")
    with pytest.raises(UserError, match=r"x\.json: is not a JSON object"):
        load_object(file)
    assert find_object(file) == find_object(tmp_path / "none.json") == {}
    with pytest.raises(UserError, match="Is a directory"):
        load_object(tmp_path)
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert load_object(file) == find_object(file) == {"a": 1}
