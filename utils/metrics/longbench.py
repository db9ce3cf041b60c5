"""Scores LongBench predictions like the official scorer: 21 subsets, and LongBench-E by length."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli.command_line import Answer, run_cli
from utils.cli.parser import build_parser
from utils.core.errors import DataError
from utils.core.json_files import NotJsonError, parse_json
from utils.metrics.longbench_score import (
    CATEGORIES,
    CLASSIFICATION,
    CODE_SIMILARITIES,
    SUBSET_METRICS,
    score_prediction,
)

DESCRIPTION = """Score LongBench predictions as the benchmark's own scorer does, 0 to 100.

  python -m utils.metrics.longbench pred/my-model
  python -m utils.metrics.longbench pred_e/my-model --e --json
  python -m utils.metrics.longbench pred/my-model --code_similarity levenshtein

FOLDER holds one file per subset, such as hotpotqa.jsonl, with a row per line:
{"pred": "...", "answers": ["..."], "all_classes": null, "length": 1234}"""

BUCKETS = ("0-4k", "4-8k", "8k+")
"""Length buckets of LongBench-E: below 4000, below 8000, and longer."""


@dataclass(frozen=True)
class Prediction:
    """One row of a file of predictions."""

    text: str
    """The generated text, unchanged."""
    answers: tuple[str, ...]
    """Correct answers, any of which counts."""
    classes: tuple[str, ...] = ()
    """All classes of a classification subset."""
    length: int | None = None
    """Length of the context in words or characters, as the benchmark counts it."""
    place: str = ""
    """`file:line`."""


def score_subset(subset: str, rows: Sequence[Prediction], code_similarity: str = CODE_SIMILARITIES[0]) -> float:
    """Score a subset like the official scorer: the mean over its rows, 0 to 100, rounded to two digits.

    `code_similarity`, one of CODE_SIMILARITIES, applies to the code subsets.

    Raises:
        DataError: A row cannot be scored; its location is named.
    """
    values = _score_rows(subset, rows, code_similarity)
    return round(100 * sum(values) / len(values), 2)


def score_subset_by_length(
    subset: str, rows: Sequence[Prediction], code_similarity: str = CODE_SIMILARITIES[0]
) -> dict[str, float]:
    """Score a subset like LongBench-E: the mean, 0 to 100, in each length bucket; nan for an empty bucket."""
    import numpy as np

    buckets: dict[str, list[float]] = {bucket: [] for bucket in BUCKETS}
    for row, value in zip(rows, _score_rows(subset, rows, code_similarity), strict=True):
        assert row.length is not None, f"no length at {row.place}"
        buckets[BUCKETS[(row.length >= 4000) + (row.length >= 8000)]].append(value)
    # numpy's summation and rounding, which the official scores use, differ from Python's.
    return {key: float(round(100 * np.mean(each), 2)) if each else float("nan") for key, each in buckets.items()}


def average_by_category(values: Mapping[str, float]) -> dict[str, float]:
    """Average subsets as in the benchmark's table: each category over its subsets, `average` over the categories.

    Scores may be on any scale; nan counts as missing. LongBench-E's `hotpotqa_e` counts as `hotpotqa`. Empty if there
    are no scores.
    """
    values = {subset.removesuffix("_e"): value for subset, value in values.items()}
    found = {}
    for category, subsets in CATEGORIES.items():
        there = [values[subset] for subset in subsets if not math.isnan(values.get(subset, math.nan))]
        if there:
            found[category] = sum(there) / len(there)
    return {**found, "average": sum(found.values()) / len(found)} if found else {}


def read_predictions(path: Path, *, with_lengths: bool = False) -> list[Prediction]:
    """Read a file of predictions, named after its subset; empty lines are skipped.

    `with_lengths` requires a `length` in every row.

    Raises:
        DataError: The file cannot be read, has no rows, or a line is not a prediction; file and line are named.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it must be a file of predictions") from error
    numbered = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: holds no predictions; write one JSON object per line, or take the file away")
    with_classes = SUBSET_METRICS[path.stem] == CLASSIFICATION
    return [_parse_line(place, line, with_classes, with_lengths) for place, line in numbered]


def find_files(folder: Path) -> list[Path]:
    """Find the files of predictions in a folder, in the benchmark's order.

    Raises:
        DataError: There is no such folder, no file in it, or a file that is not named after a subset.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; name the one with the predictions, such as pred/my-model")
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DataError(f"{folder}: holds no predictions; there must be a file per subset, such as hotpotqa.jsonl")
    for path in paths:
        if path.stem not in SUBSET_METRICS:
            raise DataError(f"{path}: LongBench has no subset {path.stem!r}; it has {', '.join(SUBSET_METRICS)}")
    order = list(SUBSET_METRICS)
    return sorted(paths, key=lambda path: order.index(path.stem))


def main(arguments: argparse.Namespace) -> Answer:
    """Score every file of the folder and print the table."""
    files = [(path, read_predictions(path, with_lengths=arguments.e)) for path in find_files(Path(arguments.folder))]
    score: Callable[[str, Sequence[Prediction], str], Any] = score_subset_by_length if arguments.e else score_subset
    answer = {path.stem: score(path.stem, rows, arguments.code_similarity) for path, rows in files}
    sys.stdout.write("".join(_list_lines(answer) if not arguments.e else _list_lines_by_length(answer)))
    return answer


def build() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = build_parser("python -m utils.metrics.longbench", DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", help="where the files of predictions are")
    parser.add_argument("--e", action="store_true", help="score LongBench-E: by length, below 4000, below 8000, more")
    parser.add_argument(
        "--code_similarity",
        choices=CODE_SIMILARITIES,
        default=CODE_SIMILARITIES[0],
        help="what lcc and repobench-p are scored by: the official scorer takes the second where python-Levenshtein is "
        "installed (default: difflib)",
    )
    return parser


def _list_lines(values: Mapping[str, float]) -> Iterator[str]:
    yield from (f"{subset:<20}  {value:6.2f}\n" for subset, value in values.items())
    yield "\n"
    yield from (f"{category:<20}  {value:6.2f}\n" for category, value in average_by_category(values).items())


def _list_lines_by_length(values: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    averages = {key: average_by_category({subset: each[key] for subset, each in values.items()}) for key in BUCKETS}
    names = [name for name in (*CATEGORIES, "average") if any(name in each for each in averages.values())]
    rows = {name: {key: averages[key].get(name, math.nan) for key in BUCKETS} for name in names}
    for name, each in [*values.items(), ("", {}), *rows.items()]:
        yield "  ".join([f"{name:<20}", *(f"{key} {value:6.2f}" for key, value in each.items())]).rstrip() + "\n"


def _score_rows(subset: str, rows: Sequence[Prediction], code_similarity: str) -> list[float]:
    # The official scorer uses the classes of the last row for all rows.
    classes = rows[-1].classes
    values = []
    for row in rows:
        try:
            values.append(score_prediction(subset, row.text, row.answers, classes, code_similarity=code_similarity))
        except DataError as error:
            raise DataError(f"{row.place}: {error}") from error
    return values


def _parse_line(place: str, line: bytes, with_classes: bool, with_lengths: bool) -> Prediction:
    row = _load_object(place, line)
    if not isinstance(row.get("pred"), str):
        raise DataError(f"{place}: pred must be a text, the prediction")
    answers = _require_texts(place, row, "answers")
    classes = _require_texts(place, row, "all_classes") if with_classes else ()
    length = row.get("length")
    if with_lengths and type(length) is not int:
        raise DataError(f"{place}: length must be a whole number, which --e sorts the rows by")
    return Prediction(row["pred"], answers, classes, length, place)


def _load_object(place: str, line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except NotJsonError as error:
        raise DataError(f"{place}: {error}; write an object per line") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: not a JSON object; write one with pred and answers per line")
    return row


def _require_texts(place: str, row: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = row.get(key)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: {key} must be a list of at least one text")
    return tuple(texts)


if __name__ == "__main__":
    sys.exit(run_cli(main, build(), sys.argv[1:]))
