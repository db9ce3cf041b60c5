"""Answers which model a user means: a run or a part of it, weights with a configuration, or one as it was published.

What a folder says of itself, in run.yaml and adapter_config.json, wins for every command; a file that contradicts it
about task, method or base is refused. Nothing heavy is imported to find a model on this machine.
"""

from __future__ import annotations

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
from utils.core.json_files import load_object
from utils.data.dataset import load_dataset_plugin
from utils.modeling.base_identity import is_same_base, require_same_base
from utils.modeling.consent import NO_CONSENT, Consent
from utils.modeling.head import LABELS_FILE, find_label_file, read_label_names
from utils.modeling.source import folder_problem, load_config, read_model_config
from utils.run_config import load_run_config
from utils.runs.hub import find_run_folder
from utils.runs.model_ref import PublishedModel, TrainedModel
from utils.tasks.task import default_task, load_task, task_types

MERGED_RUN = "merged_run.yaml"
"""The run's configuration in the folder of a merged model: under its own name the folder would pass for a run."""
_NUM_SHOWN = 8


def open_run(name: str | Path, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Find the model and configuration of a run by its folder, its final_model/ or any of its checkpoints.

    Raises:
        UserError: It is none of these, has no model yet, or asks to run code without the user's word.
    """
    path = find_run_folder(name).resolve()
    if not path.is_dir():
        on_hub = f", or hub:{name} for one of the hub" if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) else ""
        near = _name_runs(path.parent)
        raise UserError(f"{name}: no such folder; give the training.output_dir of a run{on_hub}{near}")
    places = (path, path.parent, path / "final_model")  # the last has a copy, should the run's own be gone
    run = next((each for each in places if (each / "run.yaml").is_file()), None)
    if run is None and (path / MERGED_RUN).is_file():
        raise UserError(f"{name}: is a merged model, and a run is wanted here")
    if run is None:
        raise UserError(f"{name}: no run.yaml here or above; give the training.output_dir of a run{_name_runs(path)}")
    inner = path / "final_model"  # before what other tools, such as the hub's client, may have put beside it
    weights = path if _holds_weights(path) and not _holds_weights(inner) else inner
    if not _holds_weights(weights):
        raise UserError(
            f"{name}: the run has no final_model yet; finish it with train.py --resume, or name a checkpoint"
        )
    config = load_run_config(run / "run.yaml", files=False, may_extend=consent.allow_extensions)
    config = replace(config, model=consent.apply(config.model, str(name)))
    labels = find_label_file(weights, run)
    if labels is None and not load_task(config.task).GENERATES:
        raise UserError(f"{name}: no {LABELS_FILE}, so the classes' names are not known; name the run folder itself")
    config = replace(config, model=_pin_base(config.model, _read_adapter_config(weights), weights, str(run)))
    # A folder handed over may be final_model/ or a checkpoint alone, with the copy of run.yaml that lies in it.
    root = weights.parent if (weights.parent / "run.yaml").is_file() else weights
    return TrainedModel(weights, config, read_label_names(labels) if labels else (), str(name), root)


def choose_weights(name: str, checkpoint: int | None = None, best: bool = False) -> Path:
    """Name the folder of a run's checkpoint, by its step or the best one; the run's own where neither is asked for."""
    run = find_run_folder(name)
    if best:
        if not (run / "best_model").exists():
            raise UserError(f"--run {name} --best: the run marked no checkpoint as its best; name one by --checkpoint")
        return run / "best_model"
    if checkpoint is not None:
        folder = run / f"checkpoint-{checkpoint}"
        if run.is_dir() and not folder.is_dir():
            there = sorted(int(each.name.split("-")[1]) for each in run.glob("checkpoint-*"))
            known = f"there are: {', '.join(map(str, there))}" if there else "it has none"
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
    """Open a merged model by the configuration that was left beside it, as it was written."""
    written = load_run_config(folder / MERGED_RUN, files=False, may_extend=consent.allow_extensions)
    merged = open_with_config(written, str(folder))
    allowed = consent.apply(merged.config.model, str(folder))
    return merged.with_section(allowed.model_copy(update={"quantization": None, "dtype": "auto"}))


def as_whole_model(trained: TrainedModel) -> TrainedModel:
    """Take a whole model for what it is, though its configuration is that of an adapter: it was merged."""
    whole = not trained.is_adapter and (trained.weights / "config.json").is_file()
    if not whole or trained.config.peft.method == "none":
        return trained
    plain = load_adapter("none").Config(method="none")  # type: ignore[attr-defined]
    return replace(trained, config=replace(trained.config, peft=plain))


def open_with_config(given: RunConfig, name: str, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Find the weights in a folder, and check that the user's file does not contradict what the folder says of itself.

    Args:
        given: The user's file.
        name: A run, as for `open_run`, or a folder with an adapter or a model made elsewhere.
        consent: What of it may run, beside what the file allows.

    Returns:
        With the run's own configuration; that of the file where the folder has none.

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
        raise UserError(f"{name}: holds neither {ADAPTER_CONFIG} nor config.json, so it is no model")
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
    labels = _find_labels(weights, given) if not load_task(given.task).GENERATES else ()
    return TrainedModel(weights, replace(given, model=model), labels, name)


def open_published(name: str, consent: Consent = NO_CONSENT) -> PublishedModel:
    """Open a model as it was published; what is not on this machine is asked of the hub.

    Raises:
        UserError: The folder is none, holds a run or an adapter, or asks to run code without the user's word.
        ModelError: It is of a kind that gives no one answer.
    """
    if not name.strip():
        raise UserError("--model: is empty; give a hub name or a folder")
    section = consent.apply(ModelSection(name_or_path=name), name)
    refuse_own_folder(name)
    if is_local(name) and (problem := folder_problem(section)):
        raise UserError(f"--model: {problem}")
    model_config: dict[str, Any] = read_model_config(section) or load_config(section).to_dict()
    made_as = (model_config.get("architectures") or [""])[0]
    if not made_as.endswith("ForSequenceClassification"):
        return PublishedModel(name, section, generates=True)
    if model_config.get("problem_type") == "multi_label_classification":
        raise ModelError(f"--model {name}: several classes may hold of a text at once here, which is not answered")
    names = _own_labels(model_config)
    num_labels = len(names) or int(model_config.get("num_labels", 2))
    is_value = num_labels == 1 or model_config.get("problem_type") == "regression"
    names = () if is_value else names or tuple(f"LABEL_{index}" for index in range(num_labels))
    return PublishedModel(name, section, generates=False, label_names=names)


def open_adapter(name: str, base: str | None = None, consent: Consent = NO_CONSENT) -> PublishedModel:
    """Open an adapter that was made elsewhere, in peft's layout, on the base that it names, or on a given one.

    Raises:
        UserError: There is none in the folder, or its method or its base is not known.
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
    """Check that `--model` names no run and no adapter, whose own record says how it is prompted."""
    folder = Path(name).expanduser()
    for file, what, flag in (("run.yaml", "a run", "--run"), (ADAPTER_CONFIG, "an adapter", "--adapter")):
        if is_local(name) and (folder / file).is_file():
            raise UserError(f"--model {name}: the folder holds {what}; name it by {flag}")


def require_base(trained: TrainedModel, given: ModelSection, file: str) -> TrainedModel:
    """Check that the user's `file` names no other base than the one that a run's adapter was trained on.

    Gives the run, on the user's base where the recorded one is not on this machine.
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


def _find_labels(weights: Path, config: RunConfig) -> tuple[str, ...]:
    """Take the classes from labels.json beside the weights, else the dataset's, the model's own, else number them."""
    if file := find_label_file(weights, weights.parent):
        return read_label_names(file)
    section: Any = config.dataset
    if load_task(config.task).count_labels(section) == 1:
        return ()
    spec = load_dataset_plugin(section.name).describe_classification(section)
    if spec.label_names:
        return tuple(spec.label_names)
    if named := _own_labels(read_model_config(ModelSection(name_or_path=str(weights))) or {}):
        return named
    if spec.num_labels is None:
        raise UserError(
            f"{weights}: the classes of the model are not known; set dataset.label_names or dataset.num_labels in "
            f"{config.source}"
        )
    return tuple(f"LABEL_{index}" for index in range(spec.num_labels))


def _read_adapter_config(weights: Path) -> dict[str, Any]:
    file = weights / ADAPTER_CONFIG
    if not file.is_file():
        return {}
    return load_object(file, error=ModelError)


def _pin_base(model: ModelSection, made: dict[str, Any], weights: Path, where: str) -> ModelSection:
    """Hold a configuration against its adapter's own record, and take the commit of a hub base from there.

    The hub's main branch may have moved on since: the adapter was trained on the commit that it names.
    """
    recorded, commit = made.get("base_model_name_or_path"), made.get("revision")
    if not isinstance(recorded, str) or not recorded:
        return model
    require_same_base(recorded, str(weights / ADAPTER_CONFIG), model, where)
    # A user who names a revision, or a folder, means just that.
    pins = model.revision is None and model.name_or_path == recorded and not is_local(recorded)
    if pins and isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit):
        return model.model_copy(update={"revision": commit})
    return model


def _own_labels(model_config: dict[str, Any]) -> tuple[str, ...]:
    """Give the classes that a checkpoint names, in the order of their ids."""
    named = model_config.get("id2label") or {}
    return tuple(str(named[key]) for key in sorted(named, key=int))


def _name_runs(*places: Path) -> str:
    """Name the newest runs of some folders, and of outputs/, as they can be typed."""
    found = {file.parent for place in (*places, Path("outputs").resolve()) for file in place.glob("*/run.yaml")}
    runs = sorted(found, key=lambda run: (run / "run.yaml").stat().st_mtime, reverse=True)
    here = Path.cwd()
    shown = [str(run.relative_to(here) if here in run.parents else run) for run in runs[:_NUM_SHOWN]]
    more = f" and {len(runs) - len(shown)} more" if len(runs) > len(shown) else ""
    return f"; there are: {', '.join(shown)}{more}" if shown else ""


def _holds_weights(path: Path) -> bool:
    return any((path / file).is_file() for file in ("adapter_config.json", "config.json"))
