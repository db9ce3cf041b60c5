"""Submission files are what the GLUE server takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from utils.core.errors import DataError
from utils.results.submission import write_submission

NLI = ["entailment", "neutral", "contradiction"]


def test_names_ids_and_scores(tmp_path: Path) -> None:
    path = write_submission(tmp_path, "MNLI-m", dict(enumerate(np.array([2, 0, 1]))), "name", NLI)
    assert path == tmp_path / "MNLI-m.tsv"
    assert path.read_bytes() == b"index\tprediction\n0\tcontradiction\n1\tentailment\n2\tneutral\n"
    path = write_submission(tmp_path, "CoLA.tsv", {7: 1, "b": 0}, "index", ["unacceptable", "acceptable"])
    assert path.read_bytes() == b"index\tprediction\n7\t1\nb\t0\n"
    path = write_submission(tmp_path, "STS-B", dict(enumerate(np.float32([-0.0, -3, 5.2, 2.34567, np.inf]))), "score")
    assert path.read_text() == "index\tprediction\n0\t0.000\n1\t0.000\n2\t5.000\n3\t2.346\n4\t5.000\n"


def test_line_count_is_rows_plus_header(tmp_path: Path) -> None:
    path = write_submission(tmp_path, "AX", dict.fromkeys(range(1104), 0), "name", NLI)
    assert len(path.read_text().splitlines()) == 1105


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (2, "index", "test row 1: 2 is not a label id; labels go from 0 to 1"),
        (-1, "name", "-1 is not a label id"),
        (0.5, "index", "0.5 is not a label id"),
        (float("nan"), "score", "diverged"),
        (float("nan"), "index", "not a label id"),
    ],
)
def test_wrong_values_are_refused_and_leave_no_file(value: float, kind: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        write_submission(tmp_path, "RTE", {0: 0, 1: value}, kind, ["entailment", "not_entailment"])  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
