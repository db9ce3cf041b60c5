"""Run the matrix: for each family and quantization, one process trains and a fresh one reloads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.matrix.rows import Cell, Row, list_cells
from scripts.matrix.trial import Result, prepare_folder, reload_cells, train_cells, write_result

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 1200
"""Time limit of one process, in seconds."""

Report = Callable[[Result], None]


def run_matrix(rows: list[Row], units: list[tuple[str, str]], jobs: int, report: Report) -> None:
    """Try all cells.

    Args:
        rows: The methods.
        units: Family and quantization, each run by a pair of processes.
        jobs: Number of pairs at the same time.
        report: Called with each result.
    """
    with ThreadPoolExecutor(jobs) as pool:
        for results in pool.map(lambda unit: _run_unit(rows, *unit), units):
            for result in results:
                report(result)


def run_half(half: str, rows: list[Row], family: str, quantization: str, folder: Path) -> None:
    """Run one half of a unit in this process: `train` or `reload`; write one result per line to standard output."""
    cells = list_cells(rows, family, quantization)
    if half == "train":
        prepare_folder(family, folder)
    run = {"train": train_cells, "reload": reload_cells}[half]
    run(cells, folder, lambda result: print(f"RESULT {write_result(result)}", flush=True))


def _run_unit(rows: list[Row], family: str, quantization: str) -> list[Result]:
    started = time.monotonic()
    cells = list_cells(rows, family, quantization)
    with tempfile.TemporaryDirectory(prefix="lora_ns_matrix_") as name:
        folder = Path(name)
        found = [each for half in ("train", "reload") for each in _run_process(half, rows, cells[0], folder)]
        found += _find_lost(cells, found, folder)
    for each in found:
        if each.status == "crash":
            print(f"CRASH {each.row} {each.task} {family} {quantization}\n{each.reason}", file=sys.stderr)
    seconds = time.monotonic() - started
    print(f"{family} {quantization}: {len(found)} cells in {seconds:.0f} s", file=sys.stderr, flush=True)
    order = {(cell.row.title, cell.task): index for index, cell in enumerate(cells)}
    return sorted(found, key=lambda each: order[each.row, each.task])


def _run_process(half: str, rows: list[Row], cell: Cell, folder: Path) -> list[Result]:
    """Run one half in its own process; its standard error is saved beside the cells."""
    titles = ",".join(row.title for row in rows)
    command = [sys.executable, str(ROOT / "scripts" / "support_matrix.py"), "--half", half, "--folder", str(folder)]
    command += ["--family", cell.family, "--quantization", cell.quantization, "--rows", titles]
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    own = {"LORA_NS_CACHE": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "datasets")}
    with (folder / f"{half}.log").open("w", encoding="utf-8") as log:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=TIME_LIMIT, check=False,
                cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", **quiet, **own},
            )  # fmt: skip
            said = done.stdout
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode("utf-8") if isinstance(error.stdout, bytes) else error.stdout or ""
    return [Result(**json.loads(line.removeprefix("RESULT "))) for line in said.splitlines() if line[:7] == "RESULT "]


def _find_lost(cells: list[Cell], found: Iterable[Result], folder: Path) -> list[Result]:
    """Count cells without a result as crashes: their process died or timed out."""
    known = {(each.row, each.task) for each in found}
    log = "".join(file.read_text("utf-8")[-1500:] for file in sorted(folder.glob("*.log")))
    return [
        Result(cell.row.title, cell.row.method, cell.task, cell.family, cell.quantization, "crash",
               f"its process ended without a result\n{log}")
        for cell in cells if (cell.row.title, cell.task) not in known
    ]  # fmt: skip
