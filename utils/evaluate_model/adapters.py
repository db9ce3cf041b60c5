"""Score many adapters one after another, and collect them in one table."""

from __future__ import annotations

import csv
import glob
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils.core.errors import EXIT_FAILED, LoraNsError, UserError
from utils.core.replace_file import replace_file
from utils.results.workbook import guard_formula

TABLE = "adapters.csv"

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def find_adapters(patterns: Sequence[str]) -> list[str]:
    """Return the folders that are named, or match a pattern such as `runs/*/final_model`, each once."""
    found: dict[str, None] = {}
    for pattern in patterns:
        name = str(Path(pattern).expanduser())
        named = [name] if Path(name).is_dir() else sorted(glob.glob(name))  # noqa: PTH207  it may begin anywhere
        if not (folders := [each for each in named if Path(each).is_dir()]):
            raise UserError(f"--adapter {pattern}: no such folder")
        found |= dict.fromkeys(folders)
    return list(found)


def holds_run(name: str) -> bool:
    """Return whether a folder is a run or part of one, whose own record defines its prompts."""
    path = Path(name).expanduser().resolve()
    return any((each / "run.yaml").is_file() for each in (path, path.parent))


def score_adapters(names: Sequence[str], score: Callable[[str], dict[str, Any]], table: Path) -> dict[str, Any]:
    """Score every adapter with a function that returns the result of `show_scores`; a failure's reason is in its row.

    The table is rewritten after each. Returns all answers for `--json`.
    """
    rows: list[Row] = []
    answers: dict[str, Any] = {}
    for number, name in enumerate(names):
        logger.info("adapter %d of %d: %s", number + 1, len(names), name)
        try:
            answers[name] = score(name)
            rows.append({"adapter": name, **_lay_out(answers[name])})
        except LoraNsError as error:
            answers[name] = {"error": str(error)}
            rows.append({"adapter": name, "error": str(error)})
            logger.error("%s: no score: %s", name, error)
        _write(table, rows)
    failed = [row for row in rows if "error" in row]
    logger.info("%d adapters: %s", len(rows), table)
    return {"adapters": answers, "table": str(table)} | ({"exit_code": EXIT_FAILED} if failed else {})


def _lay_out(answer: dict[str, Any]) -> Row:
    row: Row = {"base": answer["weights"].get("base")}
    for label, result in answer["sets"].items():
        row[f"{label}_rows"] = result["n"]
        for name, value in result["metrics"].items():
            low, high = result["interval"].get(name) or (None, None)
            row |= {f"{label}_{name}": value, f"{label}_{name}_low": low, f"{label}_{name}_high": high}
    return row


def _write(table: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "error"))
    columns += ["error"] if any("error" in row for row in rows) else []
    table.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(table) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: guard_formula(each) if isinstance(each, str) else each for key, each in row.items()})
