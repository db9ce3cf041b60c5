"""Damaged data files are read or refused in one sentence; no damaged byte ends in a traceback."""

from __future__ import annotations

import json
import random

import pytest

from utils.core.errors import LoraNsError
from utils.data.classification import fingerprint_set
from utils.datasets.custom import Config, describe_classification
from utils.inference.row_io import open_source, read_rows

ROWS = [{"text": f'a "{n}", b\t\u00e9', "label": n % 3, "x": [1, None, {"a": True}]} for n in range(8)]
WHOLE = {
    "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "json": json.dumps(ROWS, indent=1),
    "csv": "text,label,x\n" + "".join(f'"a ""{n}"", b\nc",{n % 3},1.5\n' for n in range(8)),
    "tsv": "text\tlabel\tx\n" + "".join(f'a "{n}" b\t{n % 3}\t1.5\n' for n in range(8)),
    "txt": "".join(f"line {n}\n" for n in range(5)),
}
PIECES = [
    b"\0", b"\xff", b'"', b",", b"\t", b"\n", b"\r", b"[", b"]", b"{", b"}", b":", b"NaN", b"1e999", b"9" * 5000, b"-1",
    b"\xef\xbb\xbf", b"\xff\xfe", b"null", b"true", b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"\x1b[2J",
]  # fmt: skip


def _damage(content, draw):
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(damaged) + 1)
        damaged[at : at + draw.choice([0, 0, 1, 5, 40])] = draw.choice([*PIECES, b"", bytes([draw.randrange(256)])])
    return bytes(damaged)


@pytest.mark.parametrize("kind", WHOLE)
def test_damage_is_reported_in_one_sentence(tmp_path, kind):
    draw, outcomes = random.Random(kind), {"read": 0, "refused": 0}
    file, longest = tmp_path / f"rows.{kind}", 0
    for _ in range(150):
        file.write_bytes(_damage(WHOLE[kind].encode(), draw))
        config = Config(path=str(file), validation_size=0.25, on_bad_row=draw.choice(["stop", "drop"]))
        try:
            fingerprint_set(describe_classification(config), config, 1)
            outcomes["read"] += 1
        except LoraNsError as error:
            outcomes["refused"] += 1
            longest = max(longest, len(str(error)))
        try:
            num_rows = sum(1 for _ in read_rows(open_source(str(file), draw.choice([None, kind, "jsonl"]), "text")))
            assert num_rows <= file.read_bytes().count(b"\n") + len(ROWS)
        except LoraNsError:
            continue
    assert longest < 8000
    assert outcomes["refused"] > 20, "such damage must be detected"
    assert outcomes["read"] > 20 or kind in ("txt", "json"), "a bad row must not affect the others"
