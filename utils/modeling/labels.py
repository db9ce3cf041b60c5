"""The classifier's labels: what a checkpoint already calls them, and in which order its ids stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from utils.core.errors import ModelError
from utils.core.json_files import AGAIN, NotJsonError, load_json
from utils.modeling.source import load_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from utils.config.sections.model import ModelSection

LABELS_FILE = "labels.json"
"""The classes of a trained classifier, in the order of their ids; beside its weights, and in its run's folder."""
_UNNAMED = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class HeadSpec:
    """The classification head that the data needs."""

    num_labels: int
    """Outputs of the head; 1 for a regression."""
    label_names: tuple[str, ...]
    """Names in the order of the ids; empty for a regression."""
    problem_type: Literal["regression", "single_label_classification"]
    """Chooses the loss: mean squared error or cross-entropy."""


def read_label_order(section: ModelSection, label_names: Sequence[str]) -> tuple[str, ...]:
    """Read from the checkpoint's config alone in which order the labels' ids stand; see `label_order`."""
    return label_order(load_config(section), label_names)


def label_order(model_config: PreTrainedConfig, label_names: Sequence[str]) -> tuple[str, ...]:
    """Order the data's label names by the checkpoint's ids when both name the same, ignoring case.

    A head that was fine-tuned for entailment, neutral, contradiction keeps its ids; the data's own ids are
    mapped to them, as run_glue does. The spelling is the data's.
    """
    spelling = {name.lower(): name for name in label_names}
    own = [name.lower() for name in own_label_names(model_config)]
    if len(spelling) == len(label_names) and sorted(own) == sorted(spelling):
        return tuple(spelling[name] for name in own)
    return tuple(label_names)


def own_label_names(model_config: PreTrainedConfig) -> tuple[str, ...]:
    """Give the checkpoint's label names in the order of their ids, empty when they were never named."""
    names = tuple(str(name) for _, name in sorted((model_config.id2label or {}).items()))
    return () if any(_UNNAMED.fullmatch(name) for name in names) else names


def read_label_names(file: Path) -> tuple[str, ...]:
    """Read the classes' names in the order of their ids; none for regression.

    Raises:
        ModelError: The file holds something else.
    """
    try:
        names = load_json(file)
    except NotJsonError as error:
        raise ModelError(f"{file}: {error}; {AGAIN}") from None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or len(names) == 1 or len(set(names)) < len(names):
        raise ModelError(f"{file}: not a list of two or more names of classes; it was edited: copy the folder again")
    return tuple(names)


def build_head_spec(label_names: Sequence[str]) -> HeadSpec:
    """Describe the head for these labels; none of them means a regression on one number."""
    if not label_names:
        return HeadSpec(1, (), "regression")
    return HeadSpec(len(label_names), tuple(label_names), "single_label_classification")
