"""Writes predictions as the GLUE server takes them: one TSV per task."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from utils.core.errors import DataError
from utils.results.json_file import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ValueKind = Literal["index", "name", "score"]


def write_submission(
    folder: str | Path,
    name: str,
    values: Mapping[Any, Any],
    kind: ValueKind,
    label_names: Sequence[str] = (),
) -> Path:
    """Write a submission file (format: nyu-mll/GLUE-baselines and gluebenchmark.com).

    Args:
        folder: Where it goes.
        name: The server's name for the task, such as `MNLI-m`; `.tsv` is added.
        values: Label ids or, for kind score, values, by the number that the test set gives the row, in its order.
        kind: index writes label ids (CoLA, SST-2, MRPC, QQP, WNLI), name their names (MNLI, AX, QNLI, RTE),
            score values with three decimals, clipped to 0 to 5 (STS-B).
        label_names: Names of the labels by id, in the benchmark's order; not used by score.

    Returns:
        The file's path.

    Raises:
        DataError: A value is not a number, or not the id of a label.
    """
    path = Path(folder) / f"{name.removesuffix('.tsv')}.tsv"
    rows = [f"{index}\t{_format(value, kind, label_names, index)}" for index, value in values.items()]
    with replace_file(path) as beside:
        beside.write_bytes("\n".join(["index\tprediction", *rows, ""]).encode())
    return path


def _format(value: Any, kind: ValueKind, label_names: Sequence[str], row: Any) -> str:
    number = float(value)
    if kind == "score":
        if math.isnan(number):
            raise DataError(f"test row {row}: the prediction is not a number; the model has diverged")
        return f"{min(max(number, 0.0), 5.0) + 0.0:.3f}"  # + 0.0 turns -0.0 into 0.0
    if not (number.is_integer() and 0 <= number < len(label_names)):
        raise DataError(f"test row {row}: {value} is not a label id; labels go from 0 to {len(label_names) - 1}")
    return str(int(number)) if kind == "index" else label_names[int(number)]
