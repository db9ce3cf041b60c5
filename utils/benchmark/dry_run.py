"""Show a plan before anything is started: its runs, their status, and their numbers of trainable parameters.

Parameters are counted on the meta device, without weights, by one process for all distinct models of a suite, so that
the suite itself imports no ML library.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.benchmark.plan import Plan, PlannedRun
from utils.benchmark.state import find_status
from utils.config.document import Document
from utils.config.sections.model import ModelSection
from utils.core import registry
from utils.core.errors import LoraNsError
from utils.core.project import LIBRARY
from utils.modeling.source import read_model_config
from utils.tasks.task import choose_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HOME = LIBRARY.parent
_START = "import sys; sys.path.insert(0, sys.argv[1]); from utils.benchmark.dry_run import answer; answer()"
_TIMEOUT_S = 300

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Count:
    """Number of parameters of a run."""

    trainable: int | None = None
    """Trainable parameters; None: unknown before the run."""
    total: int | None = None
    note: str = ""
    """Reason why it is unknown."""


def announce_plan(plan: Plan) -> None:
    """Log older key names, settings without effect, identical runs, and what this machine lacks."""
    for notice in plan.notices:
        logger.info("note: %s", notice)
    for warning in (*plan.warnings, *(f"this machine: {each}" for each in plan.unmet)):
        logger.warning("%s", warning)


def show_plan(plan: Plan, script: str = "") -> dict[str, Any]:
    """Print the selected runs and a scheduler's script, then the trainable parameters, counted without weights."""
    statuses = [find_status(run) for run in plan.shard]
    for line in _write_runs(plan, statuses):
        print(line, flush=True)  # noqa: T201  this command's output
    if script:
        print(f"\n{script}", flush=True)  # noqa: T201  this command's output
    counts = count_runs(plan.shard)
    for line in _write_counts(plan.shard, counts):
        print(line)  # noqa: T201  this command's output
    return {
        "status": "planned",
        "suite": plan.suite.section.suite,
        "output_dir": str(plan.output),
        "runs": [
            {**_describe_run(run), "status": status, **_describe_count(counts[run.name])}
            for run, status in zip(plan.shard, statuses, strict=True)
        ],
    }


def _write_runs(plan: Plan, statuses: Sequence[str]) -> list[str]:
    width = max((len(run.name) for run in plan.shard), default=0)
    lines = [f"{run.name:<{width}}  {status}" for run, status in zip(plan.shard, statuses, strict=True)]
    counted = ", ".join(f"{count} {status}" for status, count in Counter(statuses).items())
    of = "" if len(plan.shard) == len(plan.runs) else f" of the suite's {len(plan.runs)}"
    return [*lines, f"\n{len(plan.shard)} runs{of}{counted and ': '}{counted}; folder: {plan.output}"]


def _write_counts(runs: Sequence[PlannedRun], counts: dict[str, Count]) -> list[str]:
    """Write one line per method and grid values that determine the model; unknown counts by their reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        grid = (f"{key}={value}" for key, value in run.grid.items() if key.split(".")[0] in ("peft", "model"))
        count = counts[run.name]
        kind = (" ".join([run.method, *grid]), _write_count(count)) if count.trainable else ("unknown", count.note)
        tasks = groups.setdefault(kind, [])
        if run.task not in tasks:
            tasks.append(run.task)
    every = len({run.task for run in runs})
    if not groups:
        return []
    rows = [(*kind, "all tasks" if len(tasks) == every else ", ".join(tasks)) for kind, tasks in groups.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return ["\ntrainable parameters", *(f"{one:<{widths[0]}}  {two:<{widths[1]}}  {three}" for one, two, three in rows)]


def _write_count(count: Count) -> str:
    trainable, total = count.trainable or 0, count.total or 0
    return f"{trainable:,} of {total:,} ({100 * trainable / max(total, 1):.4g} %)"


def _describe_run(run: PlannedRun) -> dict[str, Any]:
    names = ("name", "task", "method", "seed", "grid", "fingerprint", "metric")
    return {**{name: getattr(run, name) for name in names}, "folder": str(run.folder)}


def _describe_count(count: Count) -> dict[str, Any]:
    if count.trainable is None:
        return {"trainable_params": None, "note": count.note}
    return {"trainable_params": count.trainable, "total_params": count.total}


def count_runs(runs: Sequence[PlannedRun]) -> dict[str, Count]:
    """Count the trainable parameters by the run's name.

    They are unknown if the base's config.json is neither in a folder nor in the hub's cache.
    """
    counts: dict[str, Count] = {}
    requests: dict[str, str] = {}
    for run in runs:
        request, why = _describe_model(run)
        if request is None:
            counts[run.name] = Count(note=why)
        else:
            requests[run.name] = json.dumps(request, sort_keys=True)
    distinct = list(dict.fromkeys(requests.values()))  # seeds and most tasks share their model
    answers = dict(zip(distinct, _ask(distinct), strict=True)) if distinct else {}
    return counts | {name: answers[request] for name, request in requests.items()}


def _describe_model(run: PlannedRun) -> tuple[dict[str, Any] | None, str]:
    """Return what determines a run's model; None with the reason if something is unknown."""
    model, peft = run.config["model"], run.config["peft"]
    section = ModelSection.model_validate(model)
    if not run.config["training"].get("do_train", True):
        return None, "nothing is trained"
    if read_model_config(section) is None:
        return None, f"the config.json of {section.name_or_path} is not on this machine yet"
    if section.extra_special_tokens or section.trust_remote_code:
        return None, "it depends on the tokenizer or on the checkpoint's own code"
    dataset = registry.load("datasets", run.config["dataset"]["name"]).Config.model_validate(run.config["dataset"])
    task = choose_task(Document(run.config), run.config["task_type"])
    assert task is not None, "the run was read"
    num_labels = task.count_labels(dataset)
    if num_labels == 0:
        return None, "the number of labels is read from the data; dataset.num_labels states it"
    request = {"model": model, "peft": peft, "task_type": run.config["task_type"], "num_labels": num_labels}
    return {**request, "extensions": run.config.get("extensions", [])}, ""


def _ask(requests: list[str]) -> list[Count]:
    """Count in one process; if it fails as a whole, all counts are unknown."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-c", _START, str(_HOME)],
            input=f"[{', '.join(requests)}]",
            capture_output=True,
            text=True,
            env=environment,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return [Count(**each) for each in json.loads(done.stdout)]
    except subprocess.TimeoutExpired:
        reason = f"counting took more than {_TIMEOUT_S} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        reason = f"counting failed: {lines[-1] if lines else error}"
    return [Count(note=reason) for _ in requests]


def answer() -> None:
    """Read requests from standard input, and print the counts."""
    from utils.core.logs import prepare_libraries

    prepare_libraries()
    sys.stdout.write(json.dumps([vars(_count(request)) for request in json.load(sys.stdin)]))


def _count(request: dict[str, Any]) -> Count:
    from utils.modeling.sizes import count_parameters

    for each in request["extensions"]:
        registry.add_folder(Path(each))
    try:
        counts = count_parameters(_build(request))
    except (LoraNsError, OSError, RuntimeError, ValueError, NotImplementedError, TypeError, AttributeError) as error:
        return Count(note=f"cannot be counted on the meta device: {type(error).__name__}: {error}"[:300])
    return Count(counts.trainable, counts.total)


def _build(request: dict[str, Any]) -> PreTrainedModel:
    """Build a model with its adapter on the meta device."""
    from utils.runs.meta_model import build_on_meta

    section = ModelSection.model_validate(request["model"])
    peft = registry.load("adapters", request["peft"]["method"]).Config.model_validate(request["peft"])
    return build_on_meta(section, peft, request["task_type"], request["num_labels"])
