"""The head and other weights that a checkpoint lacks: their initialization from the seed, and the order of labels."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError
from utils.core.json_files import AGAIN, NotJsonError, load_json
from utils.modeling.source import load_config

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

LABELS_FILE = "labels.json"
"""A trained classifier's classes in the order of their ids; beside its weights and in its run's folder."""
_UNNAMED = re.compile(r"LABEL_\d+")
_OF_LAYER = re.compile(r"\.\d+\.")
_ATTRIBUTE = "lora_ns_new_weights"
_GROWN = "lora_ns_grown_rows"


@dataclass(frozen=True)
class HeadSpec:
    """The classification head that the data needs."""

    num_labels: int
    """Number of outputs; 1 for regression."""
    label_names: tuple[str, ...]
    """Names in the order of the ids; empty for regression."""
    problem_type: Literal["regression", "single_label_classification"]
    """Determines the loss: mean squared error or cross-entropy."""


def read_label_order(section: ModelSection, label_names: Sequence[str]) -> tuple[str, ...]:
    """Read the order of the labels' ids from the checkpoint's config alone; see `label_order`."""
    return label_order(load_config(section), label_names)


def label_order(model_config: PreTrainedConfig, label_names: Sequence[str]) -> tuple[str, ...]:
    """Order the data's label names by the checkpoint's ids if both have the same names, ignoring case.

    A head that was fine-tuned for entailment, neutral, contradiction keeps its ids; the data's own ids are mapped to
    them, as run_glue does. The data's spelling is kept.
    """
    spelling = {name.lower(): name for name in label_names}
    own = [name.lower() for name in own_label_names(model_config)]
    if len(spelling) == len(label_names) and sorted(own) == sorted(spelling):
        return tuple(spelling[name] for name in own)
    return tuple(label_names)


def own_label_names(model_config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the checkpoint's label names in the order of their ids; empty if they were never named."""
    names = tuple(str(name) for _, name in sorted((model_config.id2label or {}).items()))
    return () if any(_UNNAMED.fullmatch(name) for name in names) else names


def number_labels(count: int) -> tuple[str, ...]:
    """Return transformers' names for classes without names."""
    return tuple(f"LABEL_{index}" for index in range(count))


def find_label_file(*folders: Path) -> Path | None:
    """Find the file of class names in the first of some folders that has one."""
    return next((folder / LABELS_FILE for folder in folders if (folder / LABELS_FILE).is_file()), None)


def read_label_names(file: Path) -> tuple[str, ...]:
    """Read the class names in the order of their ids; empty for regression.

    Raises:
        ModelError: The file has other content.
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
    """Describe the head for these labels; none means regression."""
    if not label_names:
        return HeadSpec(1, (), "regression")
    return HeadSpec(len(label_names), tuple(label_names), "single_label_classification")


def record_new_weights(model: PreTrainedModel, loading_info: dict[str, Any], has_head: bool) -> tuple[str, ...]:
    """Record on the model which weights its checkpoint lacked, and reject a checkpoint that lacks body weights.

    Adapters freeze the body, so a random layer in it would stay random; only a classifier's head and pooler may be new.
    `loading_info` is what `from_pretrained(output_loading_info=True)` returned with the model.

    Raises:
        ModelError: Weights of the body, or of a language model's output layer, are missing or have wrong shapes.
    """
    shapes = {name: (tuple(found), tuple(wanted)) for name, found, wanted in loading_info["mismatched_keys"]}
    new = tuple(sorted({*loading_info["missing_keys"], *shapes}))
    foreign = [name for name in new if not (has_head and _is_head_weight(name, model.base_model_prefix))]
    if foreign:
        name = foreign[0]
        what = "has shape {} instead of {}".format(*shapes[name]) if name in shapes else "is missing"
        others = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise ModelError(
            f"the weights of {model.name_or_path} do not fit {type(model).__name__}: {name} {what}{others}; "
            "the files are incomplete, or the checkpoint was made for another task"
        )
    _warn_of_unused(model, loading_info["unexpected_keys"])
    setattr(model, _ATTRIBUTE, new)
    return new


def _warn_of_unused(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Warn of a checkpoint's layers that the model does not have, as under a config.json that counts too few."""
    unused = sorted(name for name in names if _OF_LAYER.search(name))
    if unused:
        logger.warning("%s: %d of its tensors, such as %s, have no place in %s and are not used", model.name_or_path,
                       len(unused), unused[0], type(model).__name__)  # fmt: skip


def list_new_modules(model: PreTrainedModel) -> list[str]:
    """Return the modules with weights that the checkpoint lacked, sorted."""
    return sorted({name.rpartition(".")[0] for name in getattr(model, _ATTRIBUTE, ())})


def list_new_weights(model: PreTrainedModel) -> list[str]:
    """Return the weights that the checkpoint lacked, sorted."""
    return list(getattr(model, _ATTRIBUTE, ()))


def list_grown_rows(model: PreTrainedModel) -> range:
    """Return the embedding rows that `grow_embeddings` added."""
    grown: range = getattr(model, _GROWN, range(0))
    return grown


def reinitialize_head(model: PreTrainedModel, seed: int) -> None:
    """Reinitialize the weights that the checkpoint lacked, depending on the seed alone.

    The model's own initialization runs on the CPU in float32, so that the head is the same for all checkpoints of the
    same shape, on any device and in any precision. Loaded weights and the global random state are not changed.
    """
    import torch
    from transformers import initialization

    new = getattr(model, _ATTRIBUTE, ())
    drawn = {name: parameter for name, parameter in model.named_parameters() if name in new}
    # _init_weights initializes all weights of a module, so loaded ones have to be marked as done.
    for name, parameter in model.named_parameters():
        parameter._is_hf_initialized = name not in drawn  # the library's own mark to skip a parameter
    library = initialization.guard_torch_init_functions()
    with torch.no_grad(), _seeded(seed), _as_float32_on_cpu(drawn.values()), library:
        for module in _containing_modules(model, drawn):
            model._init_weights(module)
    for parameter in drawn.values():
        parameter._is_hf_initialized = True


def grow_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int | None) -> None:
    """Add embedding rows for all tokens; never remove rows, since many models keep some in reserve.

    New rows are sampled around the mean of the old ones (Hewitt 2021, "Initializing new word embeddings").
    """
    num_rows = model.get_input_embeddings().weight.shape[0]
    num_needed = max(tokenizer.get_vocab().values()) + 1
    if num_needed <= num_rows:
        return
    with _seeded(seed):
        model.resize_token_embeddings(num_needed)
    setattr(model, _GROWN, range(num_rows, num_needed))
    logger.warning(
        "the vocabulary has %d tokens but the model only %d embedding rows: %d new rows were added",
        num_needed, num_rows, num_needed - num_rows,
    )  # fmt: skip


def _is_head_weight(name: str, body: str) -> bool:
    return not name.startswith(f"{body}.") or ".pooler." in name


def _containing_modules(model: PreTrainedModel, names: Any) -> list[nn.Module]:
    """Return the modules that contain these parameters, innermost first, as the library initializes them."""
    paths = {""}
    for name in names:
        parts = name.split(".")
        paths |= {".".join(parts[:end]) for end in range(1, len(parts))}
    # Deepest first, the model itself (the empty path) last.
    ordered = sorted(paths, key=lambda path: (-path.count(".") - bool(path), path))
    return [model.get_submodule(path) for path in ordered] if names else []


@contextmanager
def _as_float32_on_cpu(parameters: Any) -> Iterator[None]:
    places = [(parameter, parameter.data) for parameter in parameters]
    for parameter, data in places:
        parameter.data = data.detach().cpu().float().clone()
    try:
        yield
    finally:
        for parameter, data in places:
            parameter.data = data.copy_(parameter.data)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
