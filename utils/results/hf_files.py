"""train_results.json, eval_results.json and all_results.json, with the key names of run_glue.py."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import UserError
from utils.results.json_file import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)


def write_hf_results(
    folder: str | Path,
    train: Mapping[str, Any] | None,
    evals: Mapping[str, Mapping[str, Any]],
    task_metrics: Sequence[str] = (),
) -> None:
    """Write the three files that users of the Trainer's examples look for.

    Args:
        folder: The run folder.
        train: What the Trainer says of training (`runtime`, `loss`, `samples`, `epoch` ...), with or without
            the prefix `train_`; None when nothing was trained.
        evals: By suffix (`""`, and `"_mm"` for MNLI mismatched), what was measured (`accuracy`, `loss`,
            `runtime`, `samples` ...), with or without the prefix `eval_`.
        task_metrics: The benchmark's own metrics; of more than one, `eval_combined_score` is the mean, as
            run_glue.py has it.
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
    """Add prefix and suffix to the keys; `epoch` has neither, it is the same for every set."""
    return {
        key if key == "epoch" else prefix + key.removeprefix(prefix) + suffix: value for key, value in values.items()
    }


def _with_combined_score(values: Mapping[str, Any], task_metrics: Sequence[str]) -> dict[str, Any]:
    """Add the mean of the task's metrics; one that is missing makes it missing too, never 0."""
    parts = [values.get(f"eval_{name}", values.get(name)) for name in task_metrics]
    if len(parts) < 2 or any(part is None for part in parts):
        return dict(values)
    return {**values, "combined_score": sum(map(float, parts)) / len(parts)}  # type: ignore[arg-type]  # no None


def _read_earlier(path: Path) -> dict[str, Any]:
    """Read what an earlier part of the run wrote: evaluating again keeps what training said."""
    try:
        return read_json(path) or {}
    except UserError as error:
        logger.warning("%s; it is written anew", error)
        return {}
