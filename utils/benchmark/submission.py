"""Collect the GLUE server's files of all tasks in a zip, validated as the server would."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from utils.benchmark.outcomes import RunOutcome
from utils.benchmark.statistics import Setting, Summary, SummaryRow, is_more_better
from utils.core.errors import UserError
from utils.core.replace_file import replace_file
from utils.datasets.glue import TASKS

# Numbers of test rows, without the header (nyu-mll/GLUE-baselines).
TEST_ROWS = {
    "AX": 1104, "CoLA": 1063, "MNLI-m": 9796, "MNLI-mm": 9847, "MRPC": 1725, "QNLI": 5463, "QQP": 390965,
    "RTE": 3000, "SST-2": 1821, "STS-B": 1379, "WNLI": 146,
}  # fmt: skip
_HEAD = "index\tprediction"
_SCORE = re.compile(r"[0-4]\.\d{3}|5\.000")
_SUBMISSION = "submission"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubmissionZip:
    """A zip for the server, and the files it lacks."""

    path: Path
    setting: str
    files: dict[str, str]
    """Run of each file, by file name."""
    missing: dict[str, str]
    """Reason why a file is not in the zip, by file name."""


def write_submission_zips(folder: Path, summary: Summary) -> list[SubmissionZip]:
    """Write one zip per method and grid values; submission.zip if there is only one.

    Of several seeds the best by the task's own metric on the validation rows is used, of equals the first; files that
    the server would reject are left out. Missing files are named in a warning.

    Raises:
        UserError: No run wrote a file for the server.
    """
    settings = [setting for setting in summary.settings if not setting.is_baseline]
    written = []
    for setting in settings:
        name = summary.name_setting(setting)
        rows = [row for row in summary.rows if row.setting.key == setting.key and not row.suffix]
        found, missing = _collect_files(rows)
        if not found:
            continue
        path = folder / _name_zip(setting, name, len(settings))
        _write_zip(path, found)
        written.append(SubmissionZip(path, name, {file: run for file, (_, run) in found.items()}, missing))
        if missing:
            reasons = "; ".join(f"{file}: {why}" for file, why in missing.items())
            logger.warning("the server's zip of %s lacks %d files: %s", name, len(missing), reasons)
    if not written:
        raise UserError(
            "--submission: no run wrote a file for the server; GLUE runs write them where the data has a test split"
        )
    return written


def _collect_files(rows: Sequence[SummaryRow]) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Collect text and run by the server's file names, and the reasons why others are missing."""
    found: dict[str, tuple[str, str]] = {}
    missing: dict[str, str] = {}
    chosen = {subset: row for row in rows if (subset := _find_subset(row))}
    for file, owner in _list_files(chosen).items():
        if owner is None:
            missing[file] = "the suite has no such task"
            continue
        run = _choose_run(chosen[owner])
        if run is None:
            missing[file] = f"no run of {chosen[owner].task} has a result"
            continue
        path = run.run.folder / _SUBMISSION / f"{file}.tsv"
        text = _read_text(path)
        problem = f"{run.run.name} wrote no such file" if text is None else _find_problem(file, text)
        if text is None or problem:
            missing[file] = problem
        else:
            found[file] = (text, run.run.name)
    return found, missing


def _list_files(subsets: Iterable[str]) -> dict[str, str | None]:
    """Return the subset of each of the server's files; MNLI's run predicts AX too."""
    owners: dict[str, str | None] = dict.fromkeys(TEST_ROWS)
    there = set(subsets)
    for subset in there:
        owners[TASKS[subset].file] = subset
    if "mnli" in there:
        owners |= {"MNLI-mm": "mnli", "AX": owners["AX"] or "mnli"}
    return owners


def _find_subset(row: SummaryRow) -> str | None:
    """Return the GLUE task of a row."""
    dataset = row.outcomes[0].run.config.get("dataset")
    subset = dataset.get("subset") if isinstance(dataset, dict) and dataset.get("name") == "glue" else None
    return subset if subset in TASKS else None


def _choose_run(row: SummaryRow) -> RunOutcome | None:
    """Choose the best seed on the validation rows, of equals the first; None without a result."""
    done = [each for each in row.outcomes if each.status == "success"]
    values = row.values
    if row.metric is None or values.empty:
        return done[0] if done else None
    sign = 1 if is_more_better(row.metric) else -1
    return max((each for each in done if each.run.seed in values), key=lambda each: sign * float(values[each.run.seed]))


def _find_problem(file: str, text: str) -> str:
    """Explain briefly why the server would reject a file; empty if it would not."""
    head, *lines = text.splitlines() or [""]
    if head != _HEAD:
        return f"its first line is {head!r}, not index and prediction"
    if len(lines) != TEST_ROWS[file]:
        return f"it has {len(lines)} of {TEST_ROWS[file]} rows"
    task = TASKS["mnli"] if file == "MNLI-mm" else next(task for task in TASKS.values() if task.file == file)
    labels = set(task.labels if task.values == "name" else map(str, range(len(task.labels))))
    for number, line in enumerate(lines):
        index, _, value = line.partition("\t")
        is_right = bool(_SCORE.fullmatch(value)) if task.values == "score" else value in labels
        if index != str(number) or not is_right:
            return f"row {number} is {line!r}"
    return ""


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _write_zip(path: Path, found: dict[str, tuple[str, str]]) -> None:
    """Write the files without folders, as the server expects; equal files give an identical zip."""
    with replace_file(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, (text, _) in sorted(found.items()):
            entry = zipfile.ZipInfo(f"{file}.tsv")  # with a fixed date
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)


def _name_zip(setting: Setting, name: str, num_settings: int) -> str:
    if num_settings == 1:
        return f"{_SUBMISSION}.zip"
    plain = re.sub(r"[^\w.+-]+", "_", name).strip("_")
    mark = "" if plain == name else f"_{sha256(repr(setting.key).encode()).hexdigest()[:6]}"
    return f"{_SUBMISSION}_{plain[:80]}{mark}.zip"
