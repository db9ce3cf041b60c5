"""Weights that the checkpoint does not hold: found, refused where training cannot make up for them, drawn."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_ATTRIBUTE = "lora_ns_new_weights"
_GROWN = "lora_ns_grown_rows"


def record_new_weights(model: PreTrainedModel, loading_info: dict[str, Any], has_head: bool) -> tuple[str, ...]:
    """Remember on the model which weights its checkpoint lacked, and refuse a checkpoint that lacks its body.

    Adapters leave the body frozen, so a random layer in it would stay random; only a classifier's head and
    pooler may be new. `loading_info` is what `from_pretrained(output_loading_info=True)` gave with the model.

    Raises:
        ModelError: Weights of the body, or of a language model's output layer, are missing or misshapen.
    """
    shapes = {name: (tuple(found), tuple(wanted)) for name, found, wanted in loading_info["mismatched_keys"]}
    new = tuple(sorted({*loading_info["missing_keys"], *shapes}))
    foreign = [name for name in new if not (has_head and _is_of_head(name, model.base_model_prefix))]
    if foreign:
        name = foreign[0]
        what = "has shape {} instead of {}".format(*shapes[name]) if name in shapes else "is missing"
        others = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise ModelError(
            f"the weights of {model.name_or_path} do not fit {type(model).__name__}: {name} {what}{others}; "
            "the files are incomplete, or the checkpoint was made for another task"
        )
    setattr(model, _ATTRIBUTE, new)
    return new


def list_new_modules(model: PreTrainedModel) -> list[str]:
    """Name the modules that hold weights which the checkpoint lacked, sorted."""
    return sorted({name.rpartition(".")[0] for name in getattr(model, _ATTRIBUTE, ())})


def list_new_weights(model: PreTrainedModel) -> list[str]:
    """Name the weights that the checkpoint lacked, sorted."""
    return list(getattr(model, _ATTRIBUTE, ()))


def list_grown_rows(model: PreTrainedModel) -> range:
    """Give the embedding rows that the checkpoint lacked and `grow_embeddings` has drawn."""
    grown: range = getattr(model, _GROWN, range(0))
    return grown


def reinitialise_head(model: PreTrainedModel, seed: int) -> None:
    """Draw the weights that the checkpoint lacked anew, from the seed alone; without such weights nothing happens.

    The model's own initialisation runs on the CPU in float32, so the head is the same for every base
    checkpoint of the same shape, every precision and every device. Weights that were loaded are not touched,
    nor is the global random state.
    """
    import torch
    from transformers import initialization

    new = getattr(model, _ATTRIBUTE, ())
    drawn = {name: parameter for name, parameter in model.named_parameters() if name in new}
    for name, parameter in model.named_parameters():
        parameter._is_hf_initialized = name not in drawn  # the library's own mark: leave this one alone
    library = initialization.guard_torch_init_functions()
    with torch.no_grad(), _seeded(seed), _as_float32_on_cpu(drawn.values()), library:
        for module in _modules_around(model, drawn):
            model._init_weights(module)
    for parameter in drawn.values():
        parameter._is_hf_initialized = True


def grow_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int | None) -> None:
    """Give every token an embedding row; never shrink, since many models keep rows in reserve.

    New rows are drawn around the mean of the old ones (Hewitt 2021, "Initializing new word embeddings").
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


def _is_of_head(name: str, body: str) -> bool:
    return not name.startswith(f"{body}.") or ".pooler." in name


def _modules_around(model: PreTrainedModel, names: Any) -> list[nn.Module]:
    """Give the modules on the way to these parameters, innermost first, as the library initialises them."""
    paths = {""}
    for name in names:
        parts = name.split(".")
        paths |= {".".join(parts[:end]) for end in range(1, len(parts))}
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
