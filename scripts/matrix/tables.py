"""Write the document: a table per task, a row per method, a column per family, and reasons as footnotes."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict

from scripts.matrix.families import DECODERS, ENCODERS, TITLES
from scripts.matrix.rows import QUANTIZATIONS, TASKS
from scripts.matrix.trial import Result

_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
_TASK_TITLES = {"SEQ_CLS": "Classification and regression (SEQ_CLS)", "CAUSAL_LM": "Language models (CAUSAL_LM)"}
_INTRODUCTION = """\
# Support matrix

What works with what, found by running it: `make matrix` attaches every method to a tiny random model of every family
through the code of train.py, trains three steps, exports, reloads in a fresh process and compares the logits.

A cell has three marks: without quantization, `nf4`, `int8`. **+** works: every trained parameter moved, and the logits
of the reloaded model are those of the trained one. **A number** is refused with the sentence of that footnote. **?** is
untested. An encoder generates no text, so the second table lacks it.
"""


def render_document(results: Iterable[Result]) -> str:
    """Render the whole document; the same results give the same text."""
    found = list(results)
    notes = _Notes()
    parts = [_INTRODUCTION, _render_versions()]
    for task in TASKS:
        families = [each for each in (*DECODERS, *ENCODERS) if any(r.family == each and r.task == task for r in found)]
        own = [each for each in found if each.task == task and not each.row.startswith("lora: ")]
        if own:
            parts.append(f"## {_TASK_TITLES[task]}\n\n{_render_table(own, families, notes)}")
    inits = [each for each in found if each.row.startswith("lora: ")]
    if inits:
        parts.append(f"## Initialisations of LoRA\n\n{_render_inits(inits, notes)}")
    parts.append(notes.render())
    return "\n".join(parts)


def write_json(results: Iterable[Result]) -> str:
    """Write the versions and every cell's result as JSON."""
    return json.dumps({"versions": find_versions(), "cells": [asdict(each) for each in results]}, indent=1) + "\n"


def shorten_reason(reason: str, method: str) -> str:
    """Remove the method's name where the table shows it, so that methods can share a footnote."""
    return reason.replace(f"not with peft.method: {method};", "not with this method;")


def find_versions() -> dict[str, str]:
    """Return the library versions that the cells ran on."""
    return {"python": platform.python_version(), **{each: importlib.metadata.version(each) for each in _PACKAGES}}


class _Notes:
    """Numbers reasons in order of first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, result: Result | None) -> str:
        if result is None or result.status == "untested":
            return "?"
        if result.status == "works":
            return "+"
        reason = shorten_reason(result.reason, result.method) if result.status == "refused" else "it crashes"
        return str(self._numbers.setdefault(reason, len(self._numbers) + 1))

    def render(self) -> str:
        lines = [f"{number}. {reason}" for reason, number in self._numbers.items()]
        return "\n".join(["## Why it is refused", "", *lines]) + "\n"


def _render_versions() -> str:
    versions = ", ".join(f"{name} {version}" for name, version in find_versions().items())
    return f"Run on a CPU with {versions}.\n"


def _render_table(results: list[Result], families: list[str], notes: _Notes) -> str:
    cells = {(each.row, each.family, each.quantization): each for each in results}
    rows = dict.fromkeys(each.row for each in results)
    lines = ["| method | " + " | ".join(TITLES[each] for each in families) + " |", "|---" * (len(families) + 1) + "|"]
    for row in rows:
        marks = [" ".join(notes.mark(cells.get((row, each, kind))) for kind in QUANTIZATIONS) for each in families]
        lines.append(f"| {row} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def _render_inits(results: list[Result], notes: _Notes) -> str:
    cells = {(each.row, each.task, each.family, each.quantization): each for each in results}
    columns = dict.fromkeys((each.task, each.family) for each in results)
    heads = [f"{TITLES[family]} {task}" for task, family in columns]
    lines = ["| peft.init_lora_weights | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in dict.fromkeys(each.row for each in results):
        marks = [" ".join(notes.mark(cells.get((row, *each, kind))) for kind in QUANTIZATIONS) for each in columns]
        lines.append(f"| {row.removeprefix('lora: ')} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"
