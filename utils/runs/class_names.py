"""The class names of a model, as far as its folder, its dataset or its checkpoint knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from utils.config.run_config import RunConfig
from utils.config.sections.model import ModelSection
from utils.core.errors import UserError
from utils.core.json_files import read_as
from utils.data.dataset import describe_classification
from utils.modeling.head import find_label_file, number_labels, read_label_names
from utils.modeling.source import read_model_config
from utils.tasks.task import load_task


class ModelConfig(TypedDict, total=False):
    """The fields of a config.json that describe the model's output."""

    architectures: list[str] | None
    problem_type: str | None
    id2label: dict[int, Any] | None
    num_labels: int


def find_labels(weights: Path, config: RunConfig) -> tuple[str, ...]:
    """Read the class names from labels.json beside the weights, else from dataset or model, else number them."""
    if file := find_label_file(weights, weights.parent):
        return read_label_names(file)
    section: Any = config.dataset
    if load_task(config.task).count_labels(section) == 1:
        return ()
    spec = describe_classification(section)
    if spec.label_names:
        return tuple(spec.label_names)
    own = read_model_config(ModelSection(name_or_path=str(weights))) or {}
    if named := own_labels(read_as(ModelConfig, own, weights / "config.json")):
        return named
    if spec.num_labels is None:
        raise UserError(
            f"{weights}: the classes of the model are not known; set dataset.label_names or dataset.num_labels in "
            f"{config.source}"
        )
    return number_labels(spec.num_labels)


def own_labels(made: ModelConfig) -> tuple[str, ...]:
    """Return the class names of a checkpoint, in the order of their ids."""
    return tuple(str(name) for _, name in sorted((made.get("id2label") or {}).items()))
