"""Opening data files of every kind, and every failure as one sentence."""

from __future__ import annotations

import pytest

from utils.core.errors import DataError
from utils.data.rows import open_file, open_rows
from utils.data.sources import Source


def _write(tmp_path, name, content):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("quotes.csv", 'text,label\n"a, ""b""\nc",1\n', [{"text": 'a, "b"\nc', "label": "1"}]),
        ("windows.csv", "text,label\r\na,1\r\nb,0\r\n", [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]),
        ("bom.csv", b"\xef\xbb\xbftext,label\nhi,1\n", [{"text": "hi", "label": "1"}]),
        ("plain.tsv", "text\tlabel\na, b\t1\n", [{"text": "a, b", "label": "1"}]),
        ("UPPER.TSV", "text\tlabel\na, b\t1\n", [{"text": "a, b", "label": "1"}]),
        ("bom.jsonl", b'\xef\xbb\xbf{"text": "hi", "label": 1}\n', [{"text": "hi", "label": 1}]),
        ("no_newline.jsonl", '{"text": "a", "label": 1}', [{"text": "a", "label": 1}]),
        ("none.jsonl", '{"text": null, "label": 1}\n{"label": 0}\n', [{"text": None, "label": 1}, {"label": 0}]),
        ("list.json", '[{"text": "a"}, {"text": "b", "label": 0}]', [{"text": "a"}, {"text": "b", "label": 0}]),
        ("bool.jsonl", '{"text": "a", "label": true}', [{"text": "a", "label": True}]),
        ("words.csv", "text,label\nNA,1\n007,\n", [{"text": "NA", "label": "1"}, {"text": "007", "label": ""}]),
        ("lines.txt", "a b\n\nc", [{"text": "a b"}, {"text": ""}, {"text": "c"}]),
    ],
)
def test_reads_every_kind(tmp_path, name, content, expected):
    assert list(open_file(str(_write(tmp_path, name, content)))) == expected


def test_reads_parquet(tmp_path):
    import datasets

    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    read = open_file(str(tmp_path / "rows.parquet"))
    assert list(read) == rows
    assert read.place(1) == f"{tmp_path / 'rows.parquet'}, row 1"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.json", '[{"text": "a"},\n {"text": }]', r"broken\.json:2: not JSON"),
        ("deep.json", '[{"text": ' + "[" * 100_000, r"deep\.json: lists within lists"),
        ("broken.parquet", "nope", r"broken\.parquet: cannot be read as parquet"),
        ("latin.csv", "t\xe9xt,label\na,1\n".encode("latin-1"), r"latin\.csv:1: not UTF-8"),
        ("excel.tsv", "text\tlabel\na\t1\n".encode("utf-16"), r"excel\.tsv: not UTF-8 text but UTF-16"),
        ("mac.tsv", "text\tlabel\ra\t1\r", r"mac\.tsv:1: its lines end with carriage returns only"),
        ("twice.csv", "text,text\na,1\n", r"twice\.csv:1: the header names a column twice: text"),
        ("empty.jsonl", "", "the file is empty"),
        ("blank.jsonl", "\n\n", "holds no rows"),
        ("header.csv", "text,label\n", "holds no rows"),
        ("none.json", "[]", "holds no rows"),
        ("rows.xlsx", "x", "unknown kind of file"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_sentence(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        open_file(str(_write(tmp_path, name, content)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_file(str(tmp_path / "nowhere.csv"))
    with pytest.raises(DataError, match="no such file or folder"):
        open_rows(Source(str(tmp_path / "nowhere")), "train")


@pytest.mark.parametrize("name", ["validation.csv", "valid.csv", "val.csv", "dev.csv"])
def test_a_folder_of_files_is_found_by_the_splits_usual_names(tmp_path, name):
    _write(tmp_path, "train.csv", "text,label\na,1\n")
    _write(tmp_path, name, "text,label\nb,0\n")
    assert [row["text"] for row in open_rows(Source(str(tmp_path)), "validation")] == ["b"]
    assert open_rows(Source(str(tmp_path)), "test") is None


def test_shards_are_read_in_order_and_other_files_ignored(tmp_path):
    _write(tmp_path, "cola/train-00001-of-00002.jsonl", '{"text": "b"}\n')
    _write(tmp_path, "cola/train-00000-of-00002.jsonl", '{"text": "a"}\n')
    _write(tmp_path, "cola/training_notes.txt", "not rows")
    assert [row["text"] for row in open_rows(Source(str(tmp_path), "cola"), "train")] == ["a", "b"]


def test_an_unreachable_hub_is_reported_in_one_sentence(monkeypatch):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"nobody/nothing.*(local folder|no such folder)") as caught:
        open_rows(Source("nobody/nothing"), "train")
    assert "\n" not in str(caught.value)


def test_local_rows_make_no_request(tmp_path, monkeypatch):
    """The library asks the hub to count a download for every local file, which takes seconds behind a firewall."""
    import datasets

    asked = []
    monkeypatch.setattr(datasets.load, "get_session", lambda: asked.append("session") or None)
    datasets.Dataset.from_list([{"text": "counted"}]).to_parquet(tmp_path / "rows.parquet")
    open_file(str(tmp_path / "rows.parquet"))
    assert asked == []


def test_a_damaged_value_in_a_parquet_file(tmp_path):
    """Data behind the header is read late, and pyarrow raises its own errors."""
    import pyarrow as pa
    from pyarrow import parquet

    from utils.data.rows import DatasetTable
    from utils.data.sources import load_parquet

    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["a good film"]}), file, compression="none", use_dictionary=False)
    file.write_bytes(file.read_bytes().replace(b"a good film", b"a go\xffd film"))
    table = DatasetTable(load_parquet(file, "rows.parquet"), "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet: behind row 0 a value cannot be read .*UnicodeDecodeError"):
        table.read(0)
