"""Counts trainable parameters before a run: its model is put together on the meta device, without weights.

All of a suite's distinct models are counted by one process, so that the suite itself imports no ML library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.benchmark.plan import PlannedRun
from utils.config.sections.model import ModelSection
from utils.core import registry
from utils.core.errors import LoraNsError
from utils.modeling.source import read_model_config
from utils.tasks.task import default_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROJECT = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from utils.benchmark.counting import answer; answer()"
_TIMEOUT_S = 300
_ANY_STEPS = 1_000_000  # a schedule decides which parameters stay, not how many are trained at first


@dataclass(frozen=True)
class Count:
    """What a run will train."""

    trainable: int | None = None
    """Parameters; None: unknown before the run."""
    total: int | None = None
    note: str = ""
    """Why it is unknown."""


def count_runs(runs: Sequence[PlannedRun]) -> dict[str, Count]:
    """Count the trainable parameters of planned runs.

    Args:
        runs: Of a plan.

    Returns:
        By the run's name. Unknown where the base's config.json is neither in a folder nor in the hub's cache.
    """
    counts: dict[str, Count] = {}
    requests: dict[str, dict[str, Any]] = {}
    keys: dict[str, str] = {}
    for run in runs:
        request, why = _describe(run)
        if request is None:
            counts[run.name] = Count(note=why)
        else:
            keys[run.name] = json.dumps(request, sort_keys=True)
            requests[keys[run.name]] = request
    answers = dict(zip(requests, _ask(list(requests.values())), strict=True)) if requests else {}
    return counts | {name: answers[key] for name, key in keys.items()}


def _describe(run: PlannedRun) -> tuple[dict[str, Any] | None, str]:
    """Put together what decides the model of a run; None with the reason where something is not known."""
    model, peft = run.config["model"], run.config["peft"]
    section = ModelSection.model_validate(model)
    if not run.config["training"].get("do_train", True):
        return None, "nothing is trained"
    if read_model_config(section) is None:
        return None, f"the config.json of {section.name_or_path} is not on this machine yet"
    if section.extra_special_tokens or section.trust_remote_code:
        return None, "it depends on the tokenizer or on the checkpoint's own code"
    dataset = registry.load("datasets", run.config["dataset"]["name"]).Config.model_validate(run.config["dataset"])
    num_labels = default_task(run.config["task_type"]).count_labels(dataset)
    if num_labels == 0:
        return None, "the number of labels is read from the data"
    return {"model": model, "peft": peft, "num_labels": num_labels}, ""


def _ask(requests: list[dict[str, Any]]) -> list[Count]:
    """Let one process count; where it fails as a whole, everything is unknown."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, "-c", _START, str(_PROJECT)],
            input=json.dumps(requests),
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
    """Count what standard input asks for, and print the counts."""
    from utils.core.logs import silence_libraries

    silence_libraries()
    sys.stdout.write(json.dumps([vars(_count(request)) for request in json.load(sys.stdin)]))


def _count(request: dict[str, Any]) -> Count:
    from utils.modeling.sizes import count_parameters

    try:
        counts = count_parameters(_build(request))
    except (LoraNsError, OSError, RuntimeError, ValueError, NotImplementedError, TypeError, AttributeError) as error:
        return Count(note=f"cannot be counted on the meta device: {type(error).__name__}: {error}"[:300])
    return Count(counts.trainable, counts.total)


def _build(request: dict[str, Any]) -> PreTrainedModel:
    """Put a model with its adapter together on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from utils.adapters.adapter import AttachContext, load_adapter

    section = ModelSection.model_validate(request["model"])
    config = AutoConfig.from_pretrained(
        section.location, revision=section.revision, local_files_only=True, trust_remote_code=False
    )
    causal = request["num_labels"] is None
    if not causal:
        config.num_labels = request["num_labels"]
    adapter = registry.load("adapters", request["peft"]["method"]).Config.model_validate(request["peft"])
    with torch.device("meta"):
        auto = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
        model = auto.from_config(config, trust_remote_code=False)
    context = AttachContext("CAUSAL_LM" if causal else "SEQ_CLS", not causal, seed=0, num_training_steps=_ANY_STEPS)
    try:
        with torch.device("meta"):
            return load_adapter(adapter.method).attach(model, adapter, context)
    except (NotImplementedError, RuntimeError):  # it reads what it has drawn: only the base is without weights then
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=False)
        return load_adapter(adapter.method).attach(model, adapter, context)
