"""Tells trackers what a run is called and tagged: through the variables of the environment that they read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from utils.config.run_config import RunConfig

PROJECT_VARIABLE = "TRACKIO_PROJECT"
_set_here: dict[str, str] = {}


def name_run(config: RunConfig) -> dict[str, Any]:
    """Name a run by its folder, and trackio's project by its variable, as arguments of a trainer."""
    project = os.environ.get(PROJECT_VARIABLE)
    return {"run_name": Path(config.training.output_dir).name, **({"project": project} if project else {})}


def tag_run(config: RunConfig) -> None:
    """Tag a run with its task, method, dataset and seed for W&B and MLflow; what the user has set wins."""
    section = config.training.wandb
    tags = {
        "task": config.task_name,
        "method": config.peft.method,
        "dataset": config.dataset.name,
        "seed": str(config.seed),
    }
    variables = {
        "WANDB_TAGS": ",".join(f"{name}:{value}" for name, value in tags.items()),
        "MLFLOW_TAGS": json.dumps(tags),
        **(section.variables if section else {}),
    }
    for name, value in variables.items():
        # What an earlier run of this process has left is not the user's.
        if os.environ.get(name) in (None, _set_here.get(name)):
            os.environ[name] = _set_here[name] = value
