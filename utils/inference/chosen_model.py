"""The model that a call of inference.py names, and its generation settings."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from utils.adapters.saved_adapter import explain_damage
from utils.config.run_config import RunConfig, find_differences
from utils.config.sections.generation import GenerationSection
from utils.core.errors import UserError
from utils.inference.request import ModelChoice, Request
from utils.modeling.head import LABELS_FILE
from utils.run_config import load_run_config
from utils.runs.model_ref import ModelRef
from utils.runs.open_model import (
    as_whole_model,
    choose_weights,
    open_adapter,
    open_published,
    open_trained,
    open_with_config,
)
from utils.tasks.task import task_sections

logger = logging.getLogger(__name__)

_RUN_WINS = frozenset({"dataset", "task_type", *task_sections()}) - {"generation", "evaluation"}
_RUN_WINS_IN_MODEL = ("name_or_path", "revision", "chat_template", "extra_special_tokens", "pad_token")


def open_chosen_model(choice: ModelChoice) -> ModelRef:
    """Resolve the model; for a run without heavy imports."""
    if choice.run is not None:
        with explain_damage(choice.run):
            weights = choose_weights(choice.run, choice.checkpoint, choice.best)
            return replace(open_trained(weights, choice.consent), name=choice.run)
    if choice.config is not None and choice.model_path is not None:
        with explain_damage(choice.model_path):
            given = load_run_config(choice.config, files=False)
            trained = open_with_config(given, choice.model_path, choice.consent)
            if trained.run is not None:
                trained = replace(trained, config=_resolve_differences(trained.config, given))
            return as_whole_model(trained)
    if choice.adapter is not None:
        adapted = open_adapter(choice.adapter, choice.model, choice.consent)
        if not adapted.generates and not (Path(choice.adapter).expanduser() / LABELS_FILE).is_file():
            raise UserError(f"--adapter {choice.adapter}: a classifier without {LABELS_FILE}, so its classes are not "
                            "known; name it by --model_path, and a --config that has dataset.label_names")  # fmt: skip
        return adapted
    assert choice.model is not None, "checked before"
    return open_published(choice.model, choice.consent)


def choose_generation(model: ModelRef, request: Request) -> GenerationSection:
    """Apply the command line's settings to the run's; those without effect are rejected."""
    given = request.generation
    own = model.config.find_section(GenerationSection) if model.config is not None else None
    if not model.generates:
        if given or request.stream:
            names = ", ".join([*(f"--{name}" for name in given), *(["--stream"] if request.stream else [])])
            raise UserError(f"{model.title} is a classifier, which generates nothing; leave out {names}")
        return own or GenerationSection()
    try:
        section = GenerationSection(**{**(own or GenerationSection()).model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]}: {first['msg']}") from None
    if section.temperature == 0 and (idle := [name for name in ("top_p", "top_k") if given.get(name) is not None]):
        names = ", ".join(f"--{name}" for name in idle)
        raise UserError(f"{names}: has no effect at --temperature 0, which always takes the most likely token")
    return section


def _resolve_differences(own: RunConfig, given: RunConfig) -> RunConfig:
    """Warn of differences between file and run, and take each setting from the one responsible for it."""
    for key, (before, after) in find_differences(own.to_dict(), given.to_dict()).items():
        section, _, name = key.partition(".")
        runs = section in _RUN_WINS or (section == "model" and name in _RUN_WINS_IN_MODEL)
        if runs or section in ("model", "generation"):
            whose = "the run's" if runs else f"{given.source}'s"
            logger.warning("%s: the run has %r, %s has %r; %s is used", key, before, given.source, after, whose)
    kept = {name: getattr(own.model, name) for name in _RUN_WINS_IN_MODEL}
    sections = dict(own.task_sections)
    if "generation" in given.task_sections:
        sections["generation"] = given.task_sections["generation"]
    return replace(own, model=given.model.model_copy(update=kept), task_sections=sections)
