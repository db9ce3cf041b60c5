"""No code of a checkpoint runs without consent: every loading call states it, and nobody is prompted by accident."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [
    *ROOT.glob("*.py"),
    *(file for name in ("utils", "perf", "scripts", "examples") for file in (ROOT / name).rglob("*.py")),
]
RUN_NO_CODE = {"PeftModel"}
"""It loads weights into a model in memory, and has no such argument."""
KNOWN = {
    "utils/metrics/truthfulqa.py evaluate.load",
    "utils/metrics/from_evaluate.py evaluate.load",
    "utils/metrics/sandbox.py exec",
}
"""One script of evaluate's own authors, by its fixed name, where package bleurt is installed; those that are named; and
what runs programs of a model, where the user allows it, in a process without rights."""


def list_calls(file: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            yield node


def test_every_loading_call_states_whether_code_may_run():
    calls = [(file, call) for file in SOURCES for call in list_calls(file)]
    assert len(calls) > 15
    silent = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file, call in calls
        if ast.unparse(call.func.value) not in RUN_NO_CODE  # its attribute was checked above
        and not any(each.arg == "trust_remote_code" for each in call.keywords)
    ]
    assert not silent


def test_nothing_else_loads_code():
    """Unpickling, `evaluate.load` and an unrestricted `torch.load` execute code from files."""
    found = []
    for file in (ROOT / "utils").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            restricted = any(each.arg == "weights_only" and ast.unparse(each.value) == "True" for each in node.keywords)
            runs = called.startswith(("pickle.", "cloudpickle.", "joblib.")) or called in (
                "eval",
                "exec",
                "evaluate.load",
            )
            if runs or (called == "torch.load" and not restricted):
                found.append(f"{file.relative_to(ROOT)} {called}")
    assert set(found) == KNOWN
