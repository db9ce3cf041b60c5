"""Where the evaluations of a run stand in its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from utils.config.sections.model import is_local
from utils.evaluation.evaluator import SetFiles
from utils.evaluation.predictions import read_object

FINAL_RESULTS = "final_eval_results.json"


def step_folder(run: Path, step: int) -> Path:
    """Name the folder of a step's evaluation."""
    return run / f"eval_step_{step}"


def name_model(name_or_path: str) -> str:
    """Make a model's name fit for a file's: of a local folder its last part, of a hub id all, with `_` for `/`."""
    name = Path(name_or_path).expanduser().resolve().name if is_local(name_or_path) else name_or_path
    return name.replace("/", "_")


def copy_answers(source: SetFiles, own: SetFiles) -> None:
    """Copy a set's answers from one place to another, unless the same lie there already."""
    identity, before = read_object(source.identity), read_object(own.identity)
    if identity is None or not source.predictions.exists() or before == identity:
        return
    if before is None and any(path.exists() for path in (own.results, own.predictions)):
        return  # of something else: evaluating refuses to write over it
    own.folder.mkdir(exist_ok=True)
    for path in (own.results, own.predictions):
        path.unlink(missing_ok=True)
    for name in ("identity", "predictions", "results"):
        if getattr(source, name).exists():
            shutil.copyfile(getattr(source, name), getattr(own, name))
