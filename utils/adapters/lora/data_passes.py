"""What eva, corda and lora_ga learn from training rows before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peft import get_eva_state_dict
from peft.tuners.lora.corda import CordaEigens, preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga

from utils.adapters.adapter import AttachContext, evaluating
from utils.core.errors import ConfigError, LoraNsError, ModelError, Problem

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from utils.adapters.lora import Config


logger = logging.getLogger(__name__)

Batch = dict[str, Any]
_EIGENS = ("S_WC", "U_WC", "V_WC")
_SIMILARITIES = (0.99, 0.9, 0.5)
"""How alike a component has to be to itself before one more batch; looser where two of like size keep turning."""
_MOST_STEPS = 300
"""Batches that eva may see for one of these; peft would go on for ever."""


def find_eva_start(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor]:
    """Find the principal components of every layer's inputs, by layer, shape (its rank, inputs): what A starts from.

    Ranks go where they explain most. `peft_config` has target modules by name.

    Raises:
        ConfigError: The rows are too few for the rank.
        ModelError: The components do not settle.
    """
    ranks = [config.lora_r, *config.rank_pattern.values()]
    need = round(max(ranks) * config.eva_rho)
    batches = _draw_full_batches(config, context, need)
    for similarity in _SIMILARITIES:
        peft_config.eva_config = replace(peft_config.eva_config, tau=similarity)
        try:
            return _run_eva(model, peft_config, batches, names, need)
        except _NotSettledError:
            logger.warning("eva: components still turn by more than a similarity of %g allows", similarity)
    raise ModelError(
        f"peft.init_lora_weights: eva's components do not settle on {config.init_rows} rows; raise peft.init_rows or "
        "lower peft.lora_r"
    )


class _NotSettledError(LoraNsError):
    """Some components still turn after the last batch."""


def _run_eva(
    model: PreTrainedModel, peft_config: LoraConfig, batches: list[Batch], names: list[str], need: int
) -> dict[str, torch.Tensor]:
    run, steps = _body_of(model, names), iter(range(_MOST_STEPS))

    def forward(_: Any, batch: Batch) -> None:
        if next(steps, None) is None:
            raise _NotSettledError
        run(batch)

    with evaluating(model), _without_hooks(model, names):
        found: dict[str, torch.Tensor] = get_eva_state_dict(
            model,
            batches,
            peft_config,
            forward_fn=forward,
            prepare_layer_inputs_fn=lambda states, mask, name: _real_inputs(states, mask, name, need),
            gather_distributed_inputs=False,
            show_progress_bar=False,
        )
    return found


def look_at_inputs(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor]:
    """Find what corda needs of every layer: its weight's singular vectors seen through the inputs' covariance.

    Raises:
        ConfigError: There are no rows.
        ModelError: A layer gets no inputs, or one for each row only.
    """
    run = _body_of(model, names)

    def run_rows() -> None:
        for row in _draw(config, context, 1):  # one by one: peft counts padding among the inputs
            run(_to(row, model))

    try:
        with evaluating(model):
            preprocess_corda(model, peft_config, run_model=run_rows)
    except (ZeroDivisionError, IndexError):
        raise ModelError(
            "peft.target_modules: corda cannot see the inputs of one of these modules: no row reaches it, or it reads "
            "one vector for each row, as a pooler does; leave it out by peft.exclude_modules"
        ) from None
    return {f"{name}.{part}": getattr(model.get_submodule(name).eigens, part) for name in names for part in _EIGENS}


def look_at_gradients(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor]:
    """Find what lora_ga needs of every layer that learns: its weight's mean gradient over the rows.

    Raises:
        ConfigError: There are no rows.
    """

    def run_rows() -> None:
        for batch in _draw(config, context, config.init_batch_size):
            model(**_to(batch, model)).loss.backward()

    preprocess_loraga(model, peft_config, run_rows)
    layers = {name: model.get_submodule(name) for name in names}
    return {name: layer._peft_loraga_grad for name, layer in layers.items() if hasattr(layer, "_peft_loraga_grad")}


def store_at_layers(model: PreTrainedModel, found: dict[str, torch.Tensor], names: list[str]) -> None:
    """Leave at the layers, where peft looks for it, what corda or lora_ga found."""
    for name in names:
        layer: Any = model.get_submodule(name)
        if name in found:
            layer._peft_loraga_grad = found[name]
        elif f"{name}.{_EIGENS[0]}" in found:
            layer.eigens = CordaEigens(**{part: found[f"{name}.{part}"] for part in _EIGENS})


def _draw(config: Config, context: AttachContext, batch_size: int) -> list[Batch]:
    if context.training_batches is None:
        message = f"{config.init_lora_weights} looks at training rows, and there are none here; use true"
        raise ConfigError([Problem(message, "peft.init_lora_weights")])
    return context.training_batches(config.init_rows, batch_size)


def _draw_full_batches(config: Config, context: AttachContext, need: int) -> list[Batch]:
    """Draw batches that hold enough tokens each; peft would pass over the others, for ever if need be."""
    size = config.init_batch_size
    while True:
        batches = _draw(config, context, size)
        full = [batch for batch in batches if int(batch["attention_mask"].sum()) >= need]
        if len(full) >= max(1, len(batches) - 1):  # the last one may be short
            return [{key: each for key, each in batch.items() if key != "labels"} for batch in full]
        if len(batches) == 1:
            message = f"{config.init_rows} rows hold fewer than the {need} tokens that eva needs; raise it"
            raise ConfigError([Problem(message, "peft.init_rows")])
        size *= 2


def _real_inputs(states: Any, real: torch.Tensor, name: str, need: int) -> torch.Tensor:
    """Give a layer's inputs at real tokens, shape (tokens, inputs); of a pooled layer, one for each row."""
    first: torch.Tensor = states[0] if isinstance(states, (tuple, list)) else states
    inputs = first[real.T.unbind()] if first.ndim == 3 else first.reshape(-1, first.shape[-1]).contiguous()
    if len(inputs) < need:
        raise ModelError(
            f"peft.init_lora_weights: eva needs {need} inputs of {name} at a time and got {len(inputs)}; set "
            f"peft.init_batch_size: {need}, or leave the module out of target_modules"
        )
    return inputs


def _body_of(model: PreTrainedModel, names: list[str]) -> Callable[[Batch], Any]:
    """Run the model without its output layer, which may be large, where no layer of interest is in it."""
    prefix = model.base_model_prefix
    body: Any = model.base_model if all(name.startswith(f"{prefix}.") for name in names) else model
    return lambda batch: body(**{key: each for key, each in batch.items() if key != "labels"})


def _to(batch: Batch, model: PreTrainedModel) -> Batch:
    return {key: each.to(model.device) for key, each in batch.items()}


@contextmanager
def _without_hooks(model: PreTrainedModel, names: list[str]) -> Iterator[None]:
    """Take away what peft leaves on the layers when it is interrupted."""
    layers = [model.get_submodule(name) for name in names]
    before = [set(layer._forward_hooks) for layer in layers]
    try:
        yield
    finally:
        for layer, known in zip(layers, before, strict=True):
            for each in set(layer._forward_hooks) - known:
                del layer._forward_hooks[each]
