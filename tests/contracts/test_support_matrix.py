"""docs/support_matrix.md covers these plugins and families without a crash; part of it is run again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.matrix.families import DECODERS, ENCODERS, TITLES
from scripts.matrix.rows import INITS, QUANTIZATIONS, VARIANTS, list_rows
from scripts.matrix.tables import render_document, shorten_reason
from scripts.matrix.trial import Result
from utils.core import registry

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "support_matrix.md"


@pytest.fixture(scope="module")
def text():
    return DOCUMENT.read_text("utf-8")


def read_table(text, title):
    """Parse a section's table: marks by row and column."""
    section = text.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    head, body = lines[0][1:], lines[2:]
    return {line[0]: dict(zip(head, line[1:], strict=True)) for line in body}


def read_notes(text):
    return dict(re.findall(r"^(\d+)\. (.+)$", text.split("## Why it is refused", 1)[1], re.MULTILINE))


@pytest.mark.parametrize("title", ["Classification", "Language models"])
def test_the_matrix_lists_exactly_the_plugins(text, title):
    rows = read_table(text, title)
    assert {registry.normalize(row.split(" (")[0]) for row in rows} == set(registry.names("adapters"))
    variants = {f"{plugin} ({name})" for plugin, each in VARIANTS.items() for name in each}
    assert {row for row in rows if " (" in row} == variants


def test_the_matrix_has_every_family_and_initialisation(text):
    for title, families in (("Classification", (*DECODERS, *ENCODERS)), ("Language models", DECODERS)):
        for row in read_table(text, title).values():
            assert list(row) == [TITLES[each] for each in families]
            assert all(len(marks.split()) == len(QUANTIZATIONS) for marks in row.values())
    assert set(read_table(text, "Initialisations of LoRA")) == set(INITS)


def test_every_reason_is_given_and_nothing_crashes(text):
    tables, notes = text.split("## Why it is refused")[0], read_notes(text)
    cells = re.findall(r"\|((?: (?:\+|\?|\d+)){3}) (?=\|)", tables)
    used = {mark for marks in cells for mark in marks.split() if mark.isdigit()}
    assert used == set(notes)
    assert "it crashes" not in notes.values()
    assert all(len(each.split()) > 5 for each in notes.values())


def test_marks_follow_from_the_results():
    results = [
        Result("lora", "lora", "SEQ_CLS", "bert", "none", "works"),
        Result("lora", "lora", "SEQ_CLS", "bert", "nf4", "refused", "it cannot be, for a reason"),
        Result("none", "none", "SEQ_CLS", "bert", "none", "crash", "Traceback"),
        Result("none", "none", "SEQ_CLS", "bert", "int8", "refused", "it cannot be, for a reason"),
    ]
    text = render_document(results)
    assert read_table(text, "Classification") == {"lora": {"BERT": "+ 1 ?"}, "none": {"BERT": "2 ? 1"}}
    assert read_notes(text) == {"1": "it cannot be, for a reason", "2": "it crashes"}


def test_rows_name_methods_as_in_the_configuration():
    titles = [row.title for row in list_rows()]
    assert len(set(titles)) == len(titles)
    assert {registry.normalize(row.method) for row in list_rows()} == set(registry.names("adapters"))


@pytest.mark.slow
def test_a_sample_of_the_matrix_is_reproduced(text, tmp_path):
    rows, families = ("lora", "head-only", "ia3", "prompt-tuning"), ("llama", "albert")
    command = [sys.executable, "scripts/support_matrix.py", "--family", ",".join(families), "--rows", ",".join(rows)]
    command += ["--quantization", "none,int8", "--json", str(tmp_path / "cells.json")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    notes = read_notes(text)
    tables = {"SEQ_CLS": read_table(text, "Classification"), "CAUSAL_LM": read_table(text, "Language models")}
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert len(cells) == 2 * len(rows) * 3  # a decoder has both tasks, an encoder one
    for cell in cells:
        marks = tables[cell["task"]][cell["row"]][TITLES[cell["family"]]].split()
        mark = marks[QUANTIZATIONS.index(cell["quantization"])]
        assert (mark == "+") == (cell["status"] == "works"), cell
        if cell["status"] == "refused":
            assert notes[mark] == shorten_reason(cell["reason"], cell["method"])
