"""One zip holds the server's files under the right names; missing and invalid files are reported."""

from __future__ import annotations

import logging
import zipfile
from typing import Any

import pytest

from utils.benchmark.aggregate import summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.submission import TEST_ROWS, write_submission_zips
from utils.core.errors import UserError
from utils.datasets.glue import TASKS
from utils.results.exports import write_submission


def predict(run: Any, file: str, value: Any = 1, rows: int | None = None) -> None:
    task = TASKS["mnli"] if file == "MNLI-mm" else next(task for task in TASKS.values() if task.file == file)
    values = [value] * (TEST_ROWS[file] if rows is None else rows)
    write_submission(run.folder / "submission", file, dict(enumerate(values)), task.values, task.labels)


def write(folder: Any) -> Any:
    return write_submission_zips(folder.path, summarize(folder.facts(), collect_outcomes(folder.runs)))


def test_row_counts_are_those_the_server_expects() -> None:
    assert {task.file for task in TASKS.values()} | {"MNLI-mm"} == set(TEST_ROWS)


def test_all_files_in_one_flat_zip(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for subset, task in TASKS.items():
        if subset not in ("ax", "qqp", "wnli"):
            run = folder.plan(subset, "qst", 42)
            folder.finish(run, 0.7)
            for file in ("MNLI-m", "MNLI-mm", "AX") if subset == "mnli" else (task.file,):
                predict(run, file, 4.25 if subset == "stsb" else 1)
    (written,) = write(folder)
    assert written.path == folder.path / "submission.zip"
    assert written.missing == {"QQP": "the suite has no such task", "WNLI": "the suite has no such task"}
    assert "QQP: the suite has no such task; WNLI" in caplog.text
    with zipfile.ZipFile(written.path) as archive:
        names = archive.namelist()
        assert sorted(names) == sorted(f"{file}.tsv" for file in TEST_ROWS if file not in ("QQP", "WNLI"))
        lines = {name: archive.read(name).decode().splitlines() for name in names}
    assert lines["RTE.tsv"][:2] == ["index\tprediction", "0\tnot_entailment"]
    assert lines["MRPC.tsv"][-1] == "1724\t1"
    assert lines["STS-B.tsv"][1] == "0\t4.250"
    assert lines["MNLI-mm.tsv"][1] == "0\tneutral"
    assert len(lines["AX.tsv"]) == 1105
    first = written.path.read_bytes()
    assert write(folder)[0].path.read_bytes() == first


def test_best_seed_and_one_zip_per_setting(folder: Any) -> None:
    for method in ("lora", "full"):
        for seed, score in ((1, 0.6), (2, 0.8), (3, 0.8)):
            run = folder.plan("rte", method, seed)
            folder.finish(run, score if method == "lora" else 1 - score)
            predict(run, "RTE")
    lora, full = write(folder)
    assert (lora.path.name, full.path.name) == ("submission_lora.zip", "submission_full.zip")
    assert (lora.files, full.files) == ({"RTE": "rte-lora-s2"}, {"RTE": "rte-full-s1"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (None, "rte-lora-s1 wrote no such file"),
        ("index\tprediction\n0\tentailment\n", "it has 1 of 3000 rows"),
        ("id\tlabel\n", "its first line is 'id\\tlabel', not index and prediction"),
        ("index\tprediction\n" + "\n".join(f"{n}\t0" for n in range(3000)), "row 0 is '0\\t0'"),
        ("index\tprediction\n" + "\n".join(f"{n + 1}\tentailment" for n in range(3000)), "row 0 is '1\\tentailment'"),
    ],
)
def test_files_the_server_would_reject(folder: Any, line: str | None, reason: str) -> None:
    rte, wnli = folder.plan("rte", "lora", 1), folder.plan("wnli", "lora", 1)
    folder.finish(rte, 0.7)
    folder.finish(wnli, 0.7)
    predict(wnli, "WNLI")
    if line is not None:
        (rte.folder / "submission").mkdir()
        (rte.folder / "submission" / "RTE.tsv").write_text(line)
    (written,) = write(folder)
    assert written.missing["RTE"] == reason
    assert list(written.files) == ["WNLI"]


def test_failed_runs_and_no_files(folder: Any) -> None:
    folder.fail(folder.plan("rte", "lora", 1))
    with pytest.raises(UserError, match="no run wrote a file"):
        write(folder)
    assert not (folder.path / "submission.zip").exists()
