"""Resolve the model that a user names: a run or a part of it, weights with a configuration, or a published one.

A folder's own run.yaml and adapter_config.json take precedence for every command; a file that contradicts them on task,
method or base is rejected. Finding a local model imports nothing heavy.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.adapters.adapter import load_adapter
from utils.adapters.saved_adapter import ADAPTER_CONFIG
from utils.config.run_config import RunConfig
from utils.config.sections.model import ModelSection, is_local
from utils.core import registry
from utils.core.errors import ModelError, UserError
from utils.core.json_files import load_object, read_as
from utils.modeling.base_identity import is_same_base, require_same_base
from utils.modeling.consent import NO_CONSENT, Consent
from utils.modeling.head import LABELS_FILE, find_label_file, number_labels, read_label_names
from utils.modeling.source import folder_problem, load_config, read_model_config
from utils.run_config import load_run_config
from utils.runs.class_names import ModelConfig, find_labels, own_labels
from utils.runs.hub import find_run_folder
from utils.runs.inputs import list_edited_extensions
from utils.runs.model_ref import PublishedModel, TrainedModel
from utils.tasks.task import default_task, load_task, task_types
from utils.trainer.checkpoint_files import find_step, list_checkpoints

logger = logging.getLogger(__name__)

MERGED_RUN = "merged_run.yaml"
"""Name of the run's configuration in a merged model's folder: as run.yaml it would make the folder look like a run."""
_NUM_SHOWN = 8


def open_run(name: str | Path, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Find the model and configuration of a run by its folder, its final_model/ or any of its checkpoints.

    Raises:
        UserError: The folder is none of these, has no model yet, or needs consent to run code.
    """
    path = find_run_folder(name).resolve()
    if not path.is_dir():
        on_hub = f", or hub:{name} for one of the hub" if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) else ""
        near = _name_runs(path.parent)
        raise UserError(f"{name}: no such folder; give the training.output_dir of a run{on_hub}{near}")
    places = (path, path.parent, path / "final_model")  # final_model has a copy, if the run's own is gone
    run = next((each for each in places if (each / "run.yaml").is_file()), None)
    if run is None and (path / MERGED_RUN).is_file():
        raise UserError(f"{name}: is a merged model, but a run is needed here")
    if run is None:
        raise UserError(f"{name}: no run.yaml here or above; give the training.output_dir of a run{_name_runs(path)}")
    inner = path / "final_model"  # wins over weights that other tools, such as the hub's client, put beside it
    weights = path if _holds_weights(path) and not _holds_weights(inner) else inner
    if not _holds_weights(weights):
        raise UserError(
            f"{name}: the run has no final_model yet; finish it with train.py --resume, or name a checkpoint"
        )
    config = load_run_config(run / "run.yaml", files=False, may_extend=consent.allow_extensions)
    config = replace(config, model=consent.apply(config.model, str(name)))
    for each in list_edited_extensions(run):
        logger.warning("%s was edited since the run was trained, and may compute something else", each)
    labels = find_label_file(weights, run)
    if labels is None and not load_task(config.task).GENERATES:
        raise UserError(f"{name}: no {LABELS_FILE}, so the classes' names are not known; name the run folder itself")
    config = replace(config, model=_pin_base(config.model, _read_adapter_config(weights), weights, str(run)))
    # The folder may be a final_model/ or checkpoint alone, with its own copy of run.yaml.
    root = weights.parent if (weights.parent / "run.yaml").is_file() else weights
    return TrainedModel(weights, config, read_label_names(labels) if labels else (), str(name), root)


def choose_weights(name: str, checkpoint: int | None = None, best: bool = False) -> Path:
    """Return the folder of a run's checkpoint, by step or the best one; by default the run's own."""
    run = find_run_folder(name)
    if best:
        if not (run / "best_model").exists():
            raise UserError(f"--run {name} --best: the run marked no checkpoint as best; name one with --checkpoint")
        return run / "best_model"
    if checkpoint is not None:
        folder = run / f"checkpoint-{checkpoint}"
        if run.is_dir() and not folder.is_dir():
            there = [str(find_step(each)) for each in list_checkpoints(run)]
            known = f"there are: {', '.join(there)}" if there else "it has none"
            raise UserError(f"--run {name} --checkpoint {checkpoint}: no such checkpoint; {known}")
        return folder
    return run


def open_trained(name: str | Path, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Open a run as `open_run` does, or a merged model by its folder."""
    folder = find_run_folder(name)
    is_merged = (folder / MERGED_RUN).is_file() and not (folder / "run.yaml").is_file()
    opened = open_merged(folder, consent) if is_merged else open_run(name, consent)
    return replace(as_whole_model(opened), name=str(name))


def open_merged(folder: Path, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Open a merged model by the configuration saved beside it, with its own precision."""
    written = load_run_config(folder / MERGED_RUN, files=False, may_extend=consent.allow_extensions)
    merged = open_with_config(written, str(folder))
    allowed = consent.apply(merged.config.model, str(folder))
    return merged.with_section(allowed.model_copy(update={"quantization": None, "dtype": "auto"}))


def as_whole_model(trained: TrainedModel) -> TrainedModel:
    """Treat merged weights as a whole model, although their configuration is that of an adapter."""
    whole = not trained.is_adapter and (trained.weights / "config.json").is_file()
    if not whole or trained.config.peft.method == "none":
        return trained
    plain = load_adapter("none").Config(method="none")
    return replace(trained, config=replace(trained.config, peft=plain))


def open_with_config(given: RunConfig, name: str, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Find the weights in a folder, and check that the user's file does not contradict the folder's own records.

    `given` is the user's configuration; `name` is a run as for `open_run`, or a folder with an adapter or a model made
    elsewhere; `consent` adds to what the configuration allows to run.

    Returns:
        The model with the run's own configuration, or the file's if the folder has none.

    Raises:
        UserError: There is no such model, or folder and file name different tasks, methods or bases.
    """
    consent = consent.joined(Consent.of_config(given))
    path = find_run_folder(name).resolve()
    if any((each / "run.yaml").is_file() for each in (path, path.parent)):
        trained = open_run(name, consent)
        _require_agreement(trained.config, given, name)
        return require_base(trained, given.model, given.source)
    if not path.is_dir():
        raise UserError(f"{name}: no such folder")
    weights = next((each for each in (path, path / "final_model") if _holds_weights(each)), None)
    if weights is None:
        raise UserError(f"{name}: has neither {ADAPTER_CONFIG} nor config.json, so it is not a model")
    made = _read_adapter_config(weights)
    if made.get("task_type") in task_types() and made["task_type"] != given.task_type:
        raise UserError(
            f"{given.source} is for {given.task_type}, and the adapter in {weights} for {made['task_type']}"
        )
    if made and (kind := registry.normalize(str(made.get("peft_type")))) != given.peft.peft_type:
        raise UserError(
            f"{name}: is of the method {kind}, but {given.source} says peft.method: {given.peft.method}; "
            f"set peft.method: {kind}"
        )
    model = consent.apply(_pin_base(given.model, made, weights, given.source), given.source)
    labels = find_labels(weights, given) if not load_task(given.task).GENERATES else ()
    return TrainedModel(weights, replace(given, model=model), labels, name)


def open_published(name: str, consent: Consent = NO_CONSENT) -> PublishedModel:
    """Open a published model; one that is not on this machine is looked up on the hub.

    Raises:
        UserError: There is no such folder, it holds a run or an adapter, or it needs consent to run code.
        ModelError: The model is multi-label.
    """
    if not name.strip():
        raise UserError("--model: is empty; give a hub name or a folder")
    section = consent.apply(ModelSection(name_or_path=name), name)
    refuse_own_folder(name)
    if is_local(name) and (problem := folder_problem(section)):
        raise UserError(f"--model: {problem}")
    made = read_as(ModelConfig, read_model_config(section) or load_config(section).to_dict(), f"{name}: config.json")
    if not (made.get("architectures") or [""])[0].endswith("ForSequenceClassification"):
        return PublishedModel(name, section, generates=True)
    if made.get("problem_type") == "multi_label_classification":
        raise ModelError(f"--model {name}: it is a multi-label classifier, which is not supported")
    names = own_labels(made)
    num_labels = len(names) or made.get("num_labels", 2)
    is_value = num_labels == 1 or made.get("problem_type") == "regression"
    names = () if is_value else names or number_labels(num_labels)
    return PublishedModel(name, section, generates=False, label_names=names)


def open_adapter(name: str, base: str | None = None, consent: Consent = NO_CONSENT) -> PublishedModel:
    """Open an adapter made elsewhere, in peft's layout, on the base that it names, or on a given one.

    Raises:
        UserError: The folder has none, or its method or base is unknown.
    """
    folder = Path(name).expanduser().resolve()
    made = _read_adapter_config(folder)
    if not made:
        raise UserError(f"--adapter {name}: no {ADAPTER_CONFIG} here; give a folder in peft's layout")
    method = registry.normalize(str(made.get("peft_type")))
    if not registry.has("adapters", method):
        raise UserError(f"--adapter {name}: is of peft's type {made.get('peft_type')}, which no method here loads")
    found = base or made.get("base_model_name_or_path")
    if not isinstance(found, str) or not found:
        raise UserError(f"--adapter {name}: its {ADAPTER_CONFIG} names no base; give it by --model")
    section = _pin_base(consent.apply(ModelSection(name_or_path=found), found), made, folder, "--model")
    task_type = made.get("task_type")
    generates = task_type not in task_types() or default_task(str(task_type)).GENERATES
    labels = find_label_file(folder)
    return PublishedModel(name, section, generates, read_label_names(labels) if labels else (), folder, method)


def refuse_own_folder(name: str) -> None:
    """Check that `--model` names neither a run nor an adapter, whose own records define its prompts."""
    folder = Path(name).expanduser()
    for file, what, flag in (("run.yaml", "a run", "--run"), (ADAPTER_CONFIG, "an adapter", "--adapter")):
        if is_local(name) and (folder / file).is_file():
            raise UserError(f"--model {name}: the folder holds {what}; name it by {flag}")


def require_base(trained: TrainedModel, given: ModelSection, file: str) -> TrainedModel:
    """Check that the user's `file` names the same base as the run's adapter.

    Returns the run, on the user's base if the recorded one is not on this machine.
    """
    own = trained.config.model
    if not trained.is_adapter or is_same_base(own.name_or_path, given.name_or_path):
        return trained
    require_same_base(own.name_or_path, f"the run {trained.name}", given, file)
    base = {name: getattr(given, name) for name in ("name_or_path", "revision")}
    return trained.with_section(own.model_copy(update=base))


def _require_agreement(own: RunConfig, given: RunConfig, name: str) -> None:
    if own.task_type != given.task_type:
        raise UserError(f"{given.source} is for {given.task_type}, and the run {name} was trained for {own.task_type}")
    if registry.normalize(own.peft.method) != registry.normalize(given.peft.method):
        raise UserError(
            f"{given.source} says peft.method: {given.peft.method}, and the run {name} was trained by "
            f"{own.peft.method}; set peft.method: {own.peft.method}"
        )


def _read_adapter_config(weights: Path) -> dict[str, Any]:
    file = weights / ADAPTER_CONFIG
    return load_object(file, error=ModelError) if file.is_file() else {}


def _pin_base(model: ModelSection, made: dict[str, Any], weights: Path, where: str) -> ModelSection:
    """Check a configuration against its adapter's own record, and pin a hub base to the recorded commit.

    The hub's main branch may have moved since: the adapter was trained on the recorded commit.
    """
    recorded, commit = made.get("base_model_name_or_path"), made.get("revision")
    if not isinstance(recorded, str) or not recorded:
        return model
    require_same_base(recorded, str(weights / ADAPTER_CONFIG), model, where)
    # A revision or a folder that the user names is kept.
    pins = model.revision is None and model.name_or_path == recorded and not is_local(recorded)
    if pins and isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit):
        return model.model_copy(update={"revision": commit})
    return model


def _name_runs(*places: Path) -> str:
    """List the newest runs in some folders, and in outputs/, as they can be typed."""
    found = {file.parent for place in (*places, Path("outputs").resolve()) for file in place.glob("*/run.yaml")}
    runs = sorted(found, key=lambda run: (run / "run.yaml").stat().st_mtime, reverse=True)
    here = Path.cwd()
    shown = [str(run.relative_to(here) if here in run.parents else run) for run in runs[:_NUM_SHOWN]]
    more = f" and {len(runs) - len(shown)} more" if len(runs) > len(shown) else ""
    return f"; there are: {', '.join(shown)}{more}" if shown else ""


def _holds_weights(path: Path) -> bool:
    return any((path / file).is_file() for file in ("adapter_config.json", "config.json"))
