"""Report to trackers: a run's name and tags, and at its end its configuration and scores."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.run_config import RunConfig
from utils.config.yaml_text import dump_yaml
from utils.core.errors import UserError
from utils.core.library_errors import describe, is_of_library
from utils.core.logs import is_main_process
from utils.core.secrets import mask_text

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

    from utils.results.record import RunRecord

PROJECT_VARIABLE = "TRACKIO_PROJECT"
SUITE_VARIABLES = ("WANDB_RUN_GROUP", "MLFLOW_EXPERIMENT_NAME", PROJECT_VARIABLE, "SWANLAB_PROJ_NAME")
"""Variables that group a suite's runs in the trackers, set to its name unless the user has set them."""
FINAL = "final"
_OF_SWANLAB = {"project": "PROJ_NAME", "id": "RUN_ID", "resume": "RESUME"}
_set_here: dict[str, str] = {}

logger = logging.getLogger(__name__)


def name_run(config: RunConfig) -> dict[str, Any]:
    """Name a run by its folder, and trackio's project by its variable, as arguments of a trainer."""
    project = os.environ.get(PROJECT_VARIABLE)
    return {"run_name": Path(config.training.output_dir).name, **({"project": project} if project else {})}


def tag_run(config: RunConfig) -> None:
    """Tag a run with task, method, dataset and seed in trackers that support tags, unless the user has set some."""
    section = config.training.wandb
    tags = {
        "task": config.task_name,
        "method": config.peft.method,
        "dataset": config.dataset.name,
        "seed": str(config.seed),
    }
    joined = ",".join(f"{name}:{value}" for name, value in tags.items())
    variables = {
        "WANDB_TAGS": joined,
        "SWANLAB_TAGS": joined,
        "MLFLOW_TAGS": json.dumps(tags),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # its default of 7 waits for minutes at every call
        **(section.variables if section else {}),
    }
    for name, value in variables.items():
        # Left by an earlier run of this process, not set by the user.
        if os.environ.get(name) in (None, _set_here.get(name)):
            os.environ[name] = _set_here[name] = value


def open_swanlab(config: RunConfig) -> None:
    """Open SwanLab's run if the run reports to it.

    transformers' callback asks whether one is open, and from 0.8 on SwanLab raises an error if none is.
    """
    if "swanlab" not in _list_trackers(config) or not is_main_process():
        return
    import swanlab

    try:
        is_open = swanlab.get_run() is not None
    except RuntimeError:
        is_open = False
    if not is_open:
        name = config.arguments.get("run_name") or name_run(config)["run_name"]
        found = {key: os.environ.get(f"SWANLAB_{variable}") for key, variable in _OF_SWANLAB.items()}
        swanlab.init(experiment_name=name, **{key: value for key, value in found.items() if value})


def guard_trackers(trainer: Trainer) -> None:
    """Keep trackers from ending a run: one that cannot start is an error, one that fails later is skipped."""
    from transformers import TrainerCallback

    events = [name for name in vars(TrainerCallback) if name.startswith("on_")]
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__module__.startswith("transformers.integrations"):
            for event in events:
                setattr(callback, event, partial(_report, callback, event, getattr(callback, event)))


def _report(tracker: TrainerCallback, event: str, act: Callable[..., Any], *positional: Any, **named: Any) -> Any:
    """Call a tracker.

    Raises:
        UserError: The tracker cannot start.
    """
    if getattr(tracker, "has_failed", False):
        return None
    try:
        return act(*positional, **named)
    except Exception as error:  # any error of a tracker, its server or the connection
        if not (isinstance(error, OSError) or is_of_library(error)):
            raise
        name, reason = type(tracker).__name__.removesuffix("Callback").lower(), mask_text(describe(error))
        if event == "on_train_begin":
            raise UserError(
                f"training.report_to: {name} cannot start ({reason}); check that it is reachable, or leave it out"
            ) from error
        logger.warning("%s failed (%s): the run continues without it", name, reason)
        setattr(tracker, "has_failed", True)  # noqa: B010  not an attribute of its class
        return None


def report_run(config: RunConfig, record: RunRecord) -> None:
    """Log a run's configuration once (its file, secrets masked) and the scores of the kept weights, `final/<metric>`.

    Scores are 0 to 1, at the step whose weights were kept. Trackers that do not support this are skipped; one that
    cannot be reached gets a warning.
    """
    if not is_main_process():
        return
    for name in _list_trackers(config):
        if report := _REPORTERS.get(name):
            try:
                report(config, mask_text(dump_yaml(config.to_dict())), _list_scores(record), _find_step(record))
            except Exception as error:  # as above: the run is done, and its scores are in results.json
                if not (isinstance(error, OSError) or is_of_library(error)):
                    raise
                logger.warning("%s: the final scores could not be logged: %s", name, mask_text(describe(error)))


def _list_trackers(config: RunConfig) -> list[str]:
    named = config.arguments.get("report_to") or []
    listed = [named] if isinstance(named, str) else list(named)
    if "all" not in listed:
        return listed
    from transformers.integrations import get_available_reporting_integrations

    return list(get_available_reporting_integrations())


def _list_scores(record: RunRecord) -> dict[str, float]:
    sets = {label: scores for label, scores in record.evaluation.items() if label != "combined"}
    values = {f"{FINAL}/{name}": value for name, value in record.metrics.items()}
    for label, scores in sets.items():
        values |= {f"{FINAL}/{label}/{name}": scores.get(name) for name in scores.get("num_scored", ())}
    return {name: float(value) for name, value in values.items() if value is not None}


def _find_step(record: RunRecord) -> int:
    return (record.best_metric.step if record.best_metric else None) or 0


def _report_tensorboard(config: RunConfig, text: str, scores: dict[str, float], step: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder = config.training.logging_dir or str(Path(config.training.output_dir) / "logs")
    with SummaryWriter(log_dir=folder) as writer:
        writer.add_text("configuration", "".join(f"    {line}\n" for line in text.splitlines()), step)
        for name, value in scores.items():
            writer.add_scalar(name, value, step)


def _report_wandb(config: RunConfig, text: str, scores: dict[str, float], step: int) -> None:
    import wandb

    if wandb.run is not None:
        wandb.run.config.update({"configuration": text}, allow_val_change=True)
        wandb.run.summary.update(scores)


def _report_mlflow(config: RunConfig, text: str, scores: dict[str, float], step: int) -> None:
    import mlflow

    run = mlflow.active_run() or mlflow.last_active_run()  # the callback ended it after training
    if run is None:
        return
    client = mlflow.MlflowClient()
    client.log_text(run.info.run_id, text, "configuration.yaml")
    for name, value in scores.items():
        client.log_metric(run.info.run_id, name, value, step=step)


def _report_trackio(config: RunConfig, text: str, scores: dict[str, float], step: int) -> None:
    import trackio

    arguments = {**name_run(config), **config.arguments}
    named = {"project": arguments.get("project", "huggingface"), "name": arguments["run_name"]}
    trackio.init(**named, resume="allow", space_id=arguments.get("trackio_space_id"), config={"configuration": text})
    trackio.log(scores)
    trackio.finish()


def _report_swanlab(config: RunConfig, text: str, scores: dict[str, float], step: int) -> None:
    import swanlab

    swanlab.config.update({"configuration": text})
    swanlab.log(scores)


_REPORTERS: dict[str, Callable[[RunConfig, str, dict[str, float], int], None]] = {
    "tensorboard": _report_tensorboard,
    "wandb": _report_wandb,
    "mlflow": _report_mlflow,
    "trackio": _report_trackio,
    "swanlab": _report_swanlab,
}
