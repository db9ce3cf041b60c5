"""Merging in memory: device placement, disabling the update, and tied embeddings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import load_adapter
from utils.core.errors import CheckError, UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def place(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the GPU if there is one with enough memory."""
    import torch

    if not torch.cuda.is_available():
        return model
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if num_bytes * 1.3 + 2**30 > torch.cuda.mem_get_info()[0]:
        logger.info("the GPU has too little memory for the model; it is merged on the CPU")
        return model
    moved: Any = model.to("cuda")
    return moved


@contextmanager
def switched_off(model: PreTrainedModel) -> Iterator[bool]:
    """Disable the update of the weights, and yield whether there is any; fully trained modules, as a head, stay."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield bool(layers)
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_weights(method: str, model: PreTrainedModel) -> tuple[PreTrainedModel, bool | None]:
    """Merge an adapter by its method; tied embeddings stay tied only if they are still equal afterwards.

    Returns the plain model, and whether its embeddings are still tied; None: the base's were not.
    """
    plugin: Any = load_adapter(method)
    shared = untie(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"(?s).*(no longer tied|tie_word_embeddings)")  # done by `untie`
            merged: PreTrainedModel = plugin.merge(model)
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise CheckError(f"the adapter holds numbers that are not finite: its training diverged ({error})") from None
    if merged is None:  # a user's own method
        raise UserError(f"peft.method: merge of {method} returned None; it has to return the model")
    return merged, _tie_equal(merged) if shared else None


def untie(model: nn.Module) -> bool:
    """Give every module its own matrix, and return whether any was shared.

    Merging into a shared matrix would change both modules, but only one has the update in the trained model.
    """
    from torch import nn

    seen: set[int] = set()
    shared = False
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) in seen:
                module._parameters[name] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                shared = True
            seen.add(id(parameter))
    return shared


def _tie_equal(model: PreTrainedModel) -> bool:
    """Tie the embeddings again if they are still equal, else mark the model as untied; return whether they are tied."""
    import torch

    # If one of them has its own update, tying would lose it.
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    tied = written is not None and torch.equal(read.weight, written.weight)
    if tied:
        written.weight = read.weight
    else:
        model._tied_weights_keys = None
        model.all_tied_weights_keys = {}
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = tied
    return tied
