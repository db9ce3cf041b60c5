"""Bad inputs to every command: each ends as expected, in time, with one sentence and without a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.bad_inputs import ALL, BadInput
from tests.faults.test_mutants import Workshop, judge

FEW = 24
"""Every how many inputs one is tried by default."""


@pytest.fixture(scope="module")
def workshop(command_runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(command_runner, tmp_path_factory.mktemp("bad_inputs"))


def _try(workshop: Workshop, bad: BadInput, outside: Path) -> str | None:
    """Return a description of what went wrong; `outside` must not be touched by any command."""
    folder = workshop.fresh(bad.stock)
    if bad.prepare is not None:
        bad.prepare(folder)
    before = sorted(outside.iterdir())
    code, said = workshop.call(bad.script, bad.words, folder)
    wrong = judge(code, said)
    if code != bad.code:
        wrong.append(f"exit code {code}, not {bad.code}")
    if bad.said not in said:
        wrong.append(f"does not say {bad.said!r}")
    if sorted(outside.iterdir()) != before:
        wrong.append("wrote outside of its folder")
    return f"{bad.script} {' '.join(bad.words)[:300]}\n{wrong}\n{said[-1000:]}" if wrong else None


def _try_all(workshop: Workshop, tried: list[BadInput]) -> None:
    wrong = [each for bad in tried if (each := _try(workshop, bad, workshop.folder))]
    assert not wrong, f"{len(wrong)} of {len(tried)}:\n\n" + "\n\n".join(wrong[:20])


def test_a_few_bad_inputs(workshop: Workshop) -> None:
    of_one_run = [bad for kind in ALL.values() for bad in kind() if bad.stock == "classifier"]
    _try_all(workshop, of_one_run[::FEW])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_bad_inputs(workshop: Workshop) -> None:
    workshop.stock_all()
    _try_all(workshop, [bad for kind in ALL.values() for bad in kind()])


def test_the_table_has_many_different_inputs() -> None:
    inputs = [(bad.stock, bad.script, *bad.words) for kind in ALL.values() for bad in kind()]
    assert len(set(inputs)) == len(inputs) > 150
