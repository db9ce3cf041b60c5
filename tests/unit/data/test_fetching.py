"""Reading a folder of rows makes no network request, whatever its description or its values contain."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from utils.core.errors import DataError
from utils.data.sources import Source, load_parquet, load_split

ROWS = b'{"text": "good", "label": 1}\n'


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a local server of rows, and the list of requests it received."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(ROWS)))
            self.end_headers()
            self.wfile.write(ROWS)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    handling_signals = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=handling_signals.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{handling_signals.server_port}", asked
    handling_signals.shutdown()


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_folders_description_triggers_no_request(name, tmp_path: Path, server, monkeypatch):
    address, asked = server
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configs = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {address}/rows.jsonl\n"
    (tmp_path / name).write_text(f"---\n{configs}---\n# Rows\n" if name == "README.md" else configs)
    with pytest.raises(DataError, match=rf"{name}: names rows at {address}/rows\.jsonl"):
        load_split(Source(str(tmp_path)), "train")
    assert asked == []


def test_a_description_of_the_folders_own_files_is_followed(tmp_path: Path):
    (tmp_path / "mine.jsonl").write_bytes(ROWS)
    text = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: mine.jsonl\n---\nSee http://x.org\n"
    (tmp_path / "README.md").write_text(text)
    rows = load_split(Source(str(tmp_path)), "train")
    assert rows is not None
    assert rows.to_list() == [{"text": "good", "label": 1}]


@pytest.mark.parametrize("text", ["---\nconfigs: [\n---\n", "---\nconfigs: *x\n---\n", "---\n\xff\n---\n"])
def test_a_damaged_description(text, tmp_path: Path):
    (tmp_path / "mine.jsonl").write_bytes(ROWS)
    (tmp_path / "README.md").write_text(text, "latin-1")
    with pytest.raises(DataError, match=r"README\.md"):
        load_split(Source(str(tmp_path)), "train")


def test_urls_in_values_are_not_opened(tmp_path: Path, server):
    """parquet files carry their own types: an image's path may be a URL."""
    import pyarrow as pa
    from pyarrow import parquet

    address, asked = server
    pictures = pa.array(
        [{"bytes": None, "path": f"{address}/x.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    types = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "picture": {"_type": "Image"}}}}
    table = pa.table({"text": ["good"], "picture": pictures}).replace_schema_metadata(
        {"huggingface": json.dumps(types)}
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    rows = load_parquet(tmp_path / "rows.parquet", "rows.parquet")
    (row,) = rows.to_list()
    assert rows[0]["picture"] == {"bytes": None, "path": f"{address}/x.png"}
    assert row["text"] == "good"
    assert asked == []


def test_a_whole_disk_is_not_accepted_as_a_data_folder(tmp_path: Path, monkeypatch):
    from utils.data import sources

    monkeypatch.setattr(sources, "_MAX_FILES", 30)
    for number in range(31):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 3}" / f"{number}.txt").touch()
    with pytest.raises(DataError, match="more than 30 files are below it, so it is not a folder of rows"):
        load_split(Source(str(tmp_path)), "train")
