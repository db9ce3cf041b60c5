"""Files for other programs: run_glue.py's JSON files, and the GLUE server's TSV."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from utils.core.errors import DataError, UserError
from utils.core.replace_file import replace_file, replace_text
from utils.results.json_file import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ValueKind = Literal["index", "name", "score"]

logger = logging.getLogger(__name__)


def write_hf_results(
    folder: str | Path,
    train: Mapping[str, Any] | None,
    evals: Mapping[str, Mapping[str, Any]],
    task_metrics: Sequence[str] = (),
) -> None:
    """Write train_results.json, eval_results.json and all_results.json with the key names of run_glue.py.

    `train` has the Trainer's training metrics (`runtime`, `loss`, `samples`, `epoch` ...), or is None if nothing was
    trained; `evals` has the evaluation metrics by suffix (`""`, and `"_mm"` for MNLI mismatched). Keys may have the
    prefixes `train_` and `eval_` already. With several metrics of the benchmark, `eval_combined_score` is their mean.
    """
    folder = Path(folder)
    trained = _prefix(train or {}, "train_", "")
    evaluated: dict[str, Any] = {}
    for suffix, values in evals.items():
        evaluated |= _prefix(_with_combined_score(values, task_metrics), "eval_", suffix)
    if train is not None:
        write_json(folder / "train_results.json", trained, indent=4, sort_keys=True)
    if evals:
        write_json(folder / "eval_results.json", evaluated, indent=4, sort_keys=True)
    earlier = _read_earlier(folder / "all_results.json")
    write_json(folder / "all_results.json", {**earlier, **trained, **evaluated}, indent=4, sort_keys=True)


def _prefix(values: Mapping[str, Any], prefix: str, suffix: str) -> dict[str, Any]:
    """Add prefix and suffix to the keys, except `epoch`, which is the same for every set."""
    return {
        key if key == "epoch" else prefix + key.removeprefix(prefix) + suffix: value for key, value in values.items()
    }


def _with_combined_score(values: Mapping[str, Any], task_metrics: Sequence[str]) -> dict[str, Any]:
    """Add the mean of the task's metrics; if one is missing, so is the mean."""
    parts = [values.get(f"eval_{name}", values.get(name)) for name in task_metrics]
    if len(parts) < 2 or any(part is None for part in parts):
        return dict(values)
    return {**values, "combined_score": sum(map(float, parts)) / len(parts)}


def _read_earlier(path: Path) -> dict[str, Any]:
    """Read what an earlier part of the run wrote: evaluating again keeps the training metrics."""
    try:
        return read_json(path) or {}
    except UserError as error:
        logger.warning("%s; it is written again", error)
        return {}


def write_predictions(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a classifier's predictions for each row, and for named classes the confusion matrix.

    predictions.jsonl has the rows with `label` and `prediction`; confusion.csv counts predictions (columns) by label
    (rows); classes.csv has each class's precision, recall, F1 (0 to 1) and number of rows.
    """
    import pandas as pd
    from sklearn.metrics import classification_report

    folder.mkdir(exist_ok=True)
    replace_text(folder / "predictions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if not rows or not isinstance(rows[0]["label"], str):
        return
    table = pd.DataFrame(rows, columns=["label", "prediction"])
    names = sorted({*table["label"], *table["prediction"]})  # includes classes never predicted
    confusion = pd.crosstab(table["label"], table["prediction"], rownames=["label"])
    confusion = confusion.reindex(index=names, columns=names, fill_value=0)
    report = classification_report(table["label"], table["prediction"], output_dict=True, zero_division=0)
    classes = pd.DataFrame(report).T.drop(["accuracy", "macro avg", "weighted avg"], errors="ignore")
    classes = classes.rename(columns={"f1-score": "f1", "support": "rows"}).astype({"rows": int})
    for name, frame in (("confusion.csv", confusion), ("classes.csv", classes.rename_axis("label"))):
        with replace_file(folder / name) as beside:
            frame.to_csv(beside)


def write_submission(
    folder: str | Path,
    name: str,
    values: Mapping[Any, Any],
    kind: ValueKind,
    label_names: Sequence[str] = (),
) -> Path:
    """Write NAME.tsv in the GLUE server's format (nyu-mll/GLUE-baselines and gluebenchmark.com).

    `values` are label ids or, for kind score, values, by the test set's row numbers, in order. Kind index writes the
    ids (CoLA, SST-2, MRPC, QQP, WNLI), name the label names (MNLI, AX, QNLI, RTE), score values with three digits,
    clipped to 0 to 5 (STS-B). `name` is the server's name of the task, such as `MNLI-m`.

    Raises:
        DataError: A value is not a number, or not the id of a label.
    """
    path = Path(folder) / f"{name.removesuffix('.tsv')}.tsv"
    rows = [f"{index}\t{_format(value, kind, label_names, index)}" for index, value in values.items()]
    replace_text(path, "\n".join(["index\tprediction", *rows, ""]))
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
