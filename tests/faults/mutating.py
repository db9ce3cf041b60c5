"""Corrupt files as accidents and attackers do: their bytes, and the values in them."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

_TOKENS = {"@huge@": "9" * 6000, "@deep@": "[" * 100_000 + "]" * 100_000, "@nan@": "NaN", "@float@": "1e999"}
"""Text that json.dumps cannot write, inserted in place of these placeholders."""
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 10**12, 0.5, "", "x", "n" * 300, "\ud800", "\x1b[31mred\x1b]0;t\x07", "../../x",
    "\0", [], [1], ["a", "a"], [None], {}, {"a": 1}, [[[]]], *_TOKENS,
)  # fmt: skip


class _Hostile:
    """An object that a restricted unpickler must not build."""

    def __reduce__(self) -> Any:
        return os.system, ("echo HOSTILE CODE RAN",)


def mutate(file: Path, draw: random.Random) -> str:
    """Corrupt a file in place and return a description of the change."""
    by_values = _BY_SUFFIX.get(file.suffix)
    if by_values is None or draw.random() < 0.35:
        return _corrupt_bytes(file, draw)
    return by_values(file, draw)


def _corrupt_bytes(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    at = draw.randrange(len(content) or 1)
    spoilt = {
        "cut": content[:at],
        "emptied": b"",
        "byte changed": content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :],
        "not UTF-8": content[:at] + b"\xff\xfe\x80" + content[at:],
        "zeros in it": content[:at] + b"\0" * 16 + content[at + 16 :],
        "piece gone": content[:at] + content[at + draw.randrange(1, 40) :],
        "piece twice": content[: at + 40] + content[at:],
        "noise": draw.randbytes(200),
        "UTF-16": content.decode("utf-8", "replace").encode("utf-16"),
        "deep": b"[" * 100_000,
        "brackets": content[:at]
        + draw.choice([b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r", b"\t"])
        + content[at:],
    }
    how = draw.choice([*spoilt, "a folder", "a link to nothing", "gone"])
    if how in spoilt:
        file.write_bytes(spoilt[how])
        return f"{how} at {at}"
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how == "a link to nothing":
        file.symlink_to("nowhere")
    return how


def _corrupt_tree(tree: Any, draw: random.Random) -> tuple[Any, str]:
    """Change one random value in nested mappings and lists."""
    path: list[Any] = []
    node = tree
    while isinstance(node, dict | list) and node and (not path or draw.random() < 0.8):
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        path.append((node, key))
        node = node[key]
    if not path:
        return draw.choice(VALUES), "all of it"
    parent, key = path[-1]
    names = ".".join(str(each) for _, each in path)[:200]
    kind = draw.random()
    if kind < 0.12:
        del parent[key]
        return tree, f"without {names}"
    if kind < 0.2 and isinstance(parent, dict):
        value = draw.choice(["", "n" * 300, "\ud800", "\x1b[31m", "__class__", "extra"])
        parent[value] = parent.pop(key)
        return tree, f"{names} is called {value[:20]!r}"
    if kind < 0.25:
        return draw.choice(VALUES), "all of it"
    parent[key] = value = draw.choice(VALUES)
    return tree, f"{names} = {str(value)[:30]!r}"


def _to_json(tree: Any) -> str:
    text = json.dumps(tree)
    return re.sub("|".join(f'"{each}"' for each in _TOKENS), lambda found: _TOKENS[found[0].strip('"')], text)


def _corrupt_json(file: Path, draw: random.Random) -> str:
    tree, how = _corrupt_tree(json.loads(file.read_text("utf-8")), draw)
    file.write_text(_to_json(tree), "utf-8")
    return how


def _corrupt_yaml(file: Path, draw: random.Random) -> str:
    tree, how = _corrupt_tree(yaml.safe_load(file.read_text("utf-8")), draw)
    file.write_text(_to_json(tree), "utf-8")  # JSON is YAML too
    return how


def _corrupt_lines(file: Path, draw: random.Random) -> str:
    lines = file.read_text("utf-8").splitlines()
    at = draw.randrange(len(lines)) if draw.random() < 0.5 else 0
    tree, how = _corrupt_tree(json.loads(lines[at]), draw)
    lines[at] = _to_json(tree)
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return f"line {at + 1}: {how}"


def _corrupt_table(file: Path, draw: random.Random) -> str:
    lines = file.read_text("utf-8").splitlines()
    separator = "\t" if file.suffix == ".tsv" else ","
    at = draw.choice([0, 0, draw.randrange(len(lines))])
    cells = lines[at].split(separator)
    cell = draw.randrange(len(cells))
    how = draw.choice(["cell", "column gone", "column more", "quote"])
    if how == "cell":
        cells[cell] = draw.choice(["", "n" * 300, "\x1b[31m", "9" * 6000, "NaN", "-1", "\u2028", "=1+1", "a", "\0"])
    elif how == "column gone":
        del cells[cell]
    elif how == "column more":
        cells.insert(cell, cells[cell])
    else:
        cells[cell] = '"' + cells[cell]
    lines[at] = separator.join(cells)
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return f"line {at + 1}: {how} {cell}: {cells[cell][:20] if cell < len(cells) else ''!r}"


def _corrupt_safetensors(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    how = draw.choice(["header", "no numbers", "renamed", "gone", "transposed"])
    names = [each for each in header if each != "__metadata__"]
    name = draw.choice(names)
    if how == "no numbers":
        body = b"\xff" * len(body)
    elif how == "renamed":
        header[f"{name}.other"] = header.pop(name)
    elif how == "gone":  # as if the file never had it: the last one, so that no gap is left
        name = max(names, key=lambda each: header[each]["data_offsets"][1])
        body = body[: header.pop(name)["data_offsets"][0]]
    elif how == "transposed":
        header[name]["shape"] = header[name]["shape"][::-1]
    else:
        header, said = _corrupt_tree(header, draw)
        how = f"header: {said}"
    written = _to_json(header).encode("utf-8", "replace")
    file.write_bytes(struct.pack("<Q", len(written)) + written + body)
    return f"{how} {name}"


def _corrupt_torch(file: Path, draw: random.Random) -> str:
    import torch

    if draw.random() < 0.3:
        content = draw.choice([_Hostile(), {"state": _Hostile()}, {1: 2}, [], "text", {"state": {}}, torch.zeros(3)])
        torch.save(content, file)
        return f"holds {type(content).__name__} {str(content)[:40]}"
    if draw.random() < 0.2:
        file.write_bytes(pickle.dumps(_Hostile()))
        return "a pickle that runs code"
    tree, how = _corrupt_tree(torch.load(file, weights_only=False), draw)
    written = io.BytesIO()
    torch.save(tree, written)
    file.write_bytes(written.getvalue())
    return how


def _corrupt_parquet(file: Path, draw: random.Random) -> str:
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(file)
    at = draw.randrange(table.num_columns)
    name = table.column_names[at]
    how = draw.choice(["gone", "numbers", "nulls", "lists", "renamed", "no rows", "binary", "twice"])
    values: dict[str, Any] = {
        "numbers": pa.array([1.5] * len(table)), "nulls": pa.nulls(len(table)), "lists": pa.array([["a"]] * len(table)),
        "binary": pa.array([b"\xff"] * len(table)),
    }  # fmt: skip
    if how == "gone":
        table = table.remove_column(at)
    elif how == "no rows":
        table = table.slice(0, 0)
    elif how == "twice":
        table = table.append_column(name, table.column(at))
    elif how == "renamed":
        other = draw.choice(["", "n" * 300, "\x1b[31m"])
        table = table.rename_columns([other if each == name else each for each in table.column_names])
    else:
        table = table.set_column(at, name, values[how])
    parquet.write_table(table, file)
    return f"{name}: {how}"


_BY_SUFFIX: dict[str, Callable[[Path, random.Random], str]] = {
    ".json": _corrupt_json, ".jsonl": _corrupt_lines, ".yaml": _corrupt_yaml, ".csv": _corrupt_table,
    ".tsv": _corrupt_table, ".safetensors": _corrupt_safetensors, ".pt": _corrupt_torch, ".pth": _corrupt_torch,
    ".parquet": _corrupt_parquet,
}  # fmt: skip
