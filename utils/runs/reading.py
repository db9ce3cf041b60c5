"""Answers which trained model a user means: a run, its final_model/, a checkpoint, or weights with a configuration.

What a folder says of itself, in run.yaml and adapter_config.json, wins for every command; a file that contradicts it
about task, method or base is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import load_adapter
from utils.adapters.trained_files import (
    ADAPTER_CONFIG,
    explain_damage,
    list_stored,
    require_adapter_file,
    require_every_tensor,
)
from utils.config.run_config import RunConfig
from utils.config.sections.model import ModelSection, is_local
from utils.core import registry
from utils.core.errors import ModelError, UserError
from utils.core.json_files import load_object
from utils.data.dataset import load_dataset_plugin
from utils.modeling.base_identity import is_same_base, require_same_base
from utils.modeling.consent import NO_CONSENT, Consent
from utils.modeling.labels import LABELS_FILE, read_label_names
from utils.modeling.new_weights import list_grown_rows, list_new_weights
from utils.modeling.source import read_model_config
from utils.run_config import load_run_config
from utils.runs.inputs import require_unchanged_base
from utils.tasks.task import load_task, task_types

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NUM_SHOWN = 8


@dataclass(frozen=True)
class TrainedModel:
    """Where a trained model is, and the configuration that it was trained by."""

    weights: Path
    """Folder of the adapter or the whole model."""
    config: RunConfig
    label_names: tuple[str, ...]
    """Names in the order of the ids; empty for regression and language models."""
    name: str = ""
    """What the user called it; empty: the folder of the weights."""
    run: Path | None = None
    """The run's folder; None: the weights were made elsewhere."""

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the model as it was trained, and its tokenizer.

        Raises:
            ModelError: A file is damaged, or does not fit the base.
        """
        name, base = self.name or str(self.weights), self.config.model.name_or_path
        with explain_damage(name, base):
            require_adapter_file(self.weights, name, self.config.peft.peft_type, self.config.model.allow_pickle)
            if (self.weights / ADAPTER_CONFIG).is_file():
                require_unchanged_base(self.run, self.config.model, name)
            model, tokenizer = self._load()
            self.require_trained(model)
        return model, tokenizer

    def require_trained(self, model: PreTrainedModel) -> None:
        """See to it that nothing of a loaded model is random that was trained.

        Raises:
            ModelError: Its files lack tensors, or hold them in other shapes; the sentence names them.
        """
        name = self.name or str(self.weights)
        require_every_tensor(model, self.weights, name, self.config.model.name_or_path)
        plain: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        lacking = list_new_weights(plain) if plain is model else []
        rows = list_grown_rows(plain)
        if rows and self.run is not None and not (plain is not model and _holds_rows(model, self.weights, rows)):
            lacking.append(f"rows {rows.start} to {rows.stop - 1} of the embeddings")
        if lacking:
            raise ModelError(
                f"{name}: the files in {self.weights} lack {', '.join(lacking)} (or hold them in another shape), which "
                "were trained and would be random here; copy the folder again"
            )

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from utils.modeling.base_model import load_base_model
        from utils.modeling.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(self.config.model, str(self.weights))
        head = load_task(self.config.task).build_head(self.label_names)

        def load_base(folder: str | None) -> PreTrainedModel:
            section = self.config.model if folder is None else _whole_model(self.config.model, folder)
            return load_base_model(section, tokenizer, head)

        return load_adapter(self.config.peft.method).load(self.weights, load_base), tokenizer


def read_run_folder(name: str | Path, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Find the model and configuration of a run.

    Args:
        name: A run folder, its final_model/ or any of its checkpoints.
        consent: What of it may run.

    Raises:
        UserError: It is none of these, has no model yet, or asks to run code without the user's word.
    """
    path = Path(name).expanduser().resolve()
    if not path.is_dir():
        raise UserError(f"{name}: no such folder; give the training.output_dir of a run{_name_runs(path.parent)}")
    places = (path, path.parent, path / "final_model")  # the last has a copy, should the run's own be gone
    run = next((each for each in places if (each / "run.yaml").is_file()), None)
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
    labels = next((each / LABELS_FILE for each in (weights, run) if (each / LABELS_FILE).is_file()), None)
    if labels is None and not load_task(config.task).GENERATES:
        raise UserError(f"{name}: no {LABELS_FILE}, so the classes' names are not known; name the run folder itself")
    config = replace(config, model=_pin_base(config.model, _read_adapter_config(weights), weights, str(run)))
    root = weights.parent if (weights.parent / "run.yaml").is_file() else weights
    return TrainedModel(weights, config, read_label_names(labels) if labels else (), str(name), root)


def read_with_config(given: RunConfig, name: str, consent: Consent = NO_CONSENT) -> TrainedModel:
    """Find the weights in a folder, and see to it that a configuration does not contradict what it says of itself.

    Args:
        given: The user's file.
        name: A run, as for `read_run_folder`, or a folder with an adapter or a model made elsewhere.
        consent: What of it may run, beside what the file allows.

    Returns:
        With the run's own configuration; that of the file where the folder has none.

    Raises:
        UserError: There is no such model, or folder and file name different tasks, methods or bases.
    """
    consent = consent.joined(Consent.of_config(given))
    path = Path(name).expanduser().resolve()
    if any((each / "run.yaml").is_file() for each in (path, path.parent)):
        trained = read_run_folder(name, consent)
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


def refuse_own_folder(name: str) -> None:
    """See to it that `--model` names a model as it was published, and no run: its own record says how it is asked.

    Raises:
        UserError: The folder holds a run, or an adapter.
    """
    folder = Path(name).expanduser()
    for file, what in (("run.yaml", "a run"), (ADAPTER_CONFIG, "an adapter")):
        if is_local(name) and (folder / file).is_file():
            raise UserError(f"--model {name}: the folder holds {what}; name it by --run")


def require_base(trained: TrainedModel, given: ModelSection, file: str) -> TrainedModel:
    """See to it that a user names no other base than the one that a run's adapter was trained on.

    Args:
        trained: The run.
        given: What the user names.
        file: Where.

    Returns:
        The run, on the user's base where the recorded one is not on this machine.

    Raises:
        UserError: The user names another one.
    """
    own = trained.config.model
    if not (trained.weights / ADAPTER_CONFIG).is_file() or is_same_base(own.name_or_path, given.name_or_path):
        return trained
    require_same_base(own.name_or_path, f"the run {trained.name}", given, file)
    base = {name: getattr(given, name) for name in ("name_or_path", "revision")}
    return replace(trained, config=replace(trained.config, model=own.model_copy(update=base)))


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
    for each in (weights, weights.parent):
        if (each / LABELS_FILE).is_file():
            return read_label_names(each / LABELS_FILE)
    section: Any = config.dataset
    spec = load_dataset_plugin(section.name).describe_classification(section)
    if spec.label_names or spec.num_labels == 1:
        return tuple(spec.label_names or ())
    if named := (read_model_config(ModelSection(name_or_path=str(weights))) or {}).get("id2label"):
        return tuple(str(named[key]) for key in sorted(named, key=int))
    if spec.num_labels is None:
        raise UserError(
            f"{weights}: the classes of the model are not known; set dataset.label_names or dataset.num_labels in "
            f"{config.source}"
        )
    return tuple(f"LABEL_{index}" for index in range(spec.num_labels))


def _read_adapter_config(weights: Path) -> dict[str, Any]:
    """Read what an adapter says of itself; empty where the folder holds a whole model."""
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
    pins = model.revision is None and model.name_or_path == recorded and not is_local(recorded)
    if pins and isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit):
        return model.model_copy(update={"revision": commit})
    return model


def _holds_rows(adapted: Any, weights: Path, rows: range) -> bool:
    """Tell whether an adapter brings these embedding rows with it: one by one, or the whole matrix."""
    for config in adapted.peft_config.values():
        indices = getattr(config, "trainable_token_indices", None) or {}
        listed = indices.values() if isinstance(indices, dict) else [indices]
        if any(set(rows) <= set(each) for each in listed):
            return True
    plain = adapted.get_base_model()
    layer = plain.get_input_embeddings()
    name = next(path for path, part in plain.named_modules() if part is layer).rpartition(".")[2]
    return any(key.endswith(f".{name}.weight") for key in list_stored(weights) or ())


def _whole_model(section: ModelSection, folder: str) -> ModelSection:
    """Point the section at a folder that holds the whole trained model."""
    return section.model_copy(update={"name_or_path": folder, "revision": None})


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
