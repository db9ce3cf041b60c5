"""Finds and loads a trained model from whatever folder a user names: the run, its final_model/, a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.adapters.adapter import open_adapter
from utils.adapters.trained_files import explain_damage, require_adapter_file, require_every_tensor
from utils.errors import ModelError, UserError
from utils.modeling.consent import NO_CONSENT, Consent
from utils.modeling.section import ModelSection
from utils.run_config import RunConfig, load_run_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS_FILE = "labels.json"


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

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the model as it was trained, and its tokenizer.

        Raises:
            ModelError: A file is damaged, or does not fit the base.
        """
        name, base = self.name or str(self.weights), self.config.model.name_or_path
        with explain_damage(name, base):
            require_adapter_file(self.weights, name, self.config.peft.method, self.config.model.allow_pickle)
            model, tokenizer = self._load()
            require_every_tensor(model, self.weights, name, base)
        return model, tokenizer

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from utils.modeling.base_model import load_base_model
        from utils.modeling.labels import build_head_spec
        from utils.modeling.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(self.config.model, str(self.weights))
        head = build_head_spec(self.label_names) if self.config.task_type == "SEQ_CLS" else None

        def load_base(folder: str | None) -> PreTrainedModel:
            section = self.config.model if folder is None else _whole_model(self.config.model, folder)
            return load_base_model(section, tokenizer, head)

        return open_adapter(self.config.peft.method).load(self.weights, load_base), tokenizer


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
        raise UserError(f"{name}: no such folder; give the training.output_dir of a run")
    places = (path, path.parent, path / "final_model")  # the last has a copy, should the run's own be gone
    run = next((each for each in places if (each / "run.yaml").is_file()), None)
    if run is None:
        raise UserError(f"{name}: no run.yaml here or above; give the training.output_dir of a run")
    weights = path if _holds_weights(path) else path / "final_model"
    if not _holds_weights(weights):
        raise UserError(
            f"{name}: the run has no final_model yet; finish it with train.py --resume, or name a checkpoint"
        )
    config = load_run_config(run / "run.yaml", files=False)
    config = replace(config, model=consent.apply(config.model, str(name)))
    labels = next((each / LABELS_FILE for each in (weights, run) if (each / LABELS_FILE).is_file()), None)
    if labels is None and config.task_type == "SEQ_CLS":
        raise UserError(f"{name}: no {LABELS_FILE}, so the classes' names are not known; name the run folder itself")
    return TrainedModel(weights, config, read_label_names(labels) if labels else (), str(name))


def read_label_names(file: Path) -> tuple[str, ...]:
    """Read the classes' names in the order of their ids; none for regression.

    Raises:
        ModelError: The file holds something else.
    """
    try:
        names = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: not JSON ({error}); it was cut off or edited: copy the folder again") from None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or len(names) == 1 or len(set(names)) < len(names):
        raise ModelError(f"{file}: not a list of two or more names of classes; it was edited: copy the folder again")
    return tuple(names)


def _whole_model(section: ModelSection, folder: str) -> ModelSection:
    """Point the section at a folder that holds the whole trained model."""
    return section.model_copy(update={"name_or_path": folder, "revision": None})


def _holds_weights(path: Path) -> bool:
    return any((path / file).is_file() for file in ("adapter_config.json", "config.json"))
