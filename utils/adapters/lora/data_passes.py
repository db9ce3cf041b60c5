"""Passes over training rows that compute the starting points of eva, corda and lora_ga."""

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
"""Required similarity of a component before and after a batch; looser if two of similar size keep rotating."""
_MOST_STEPS = 300
"""Maximum number of batches per similarity; peft itself would never stop."""


def run_eva_pass(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor]:
    """Find the principal components of every layer's inputs, by layer, shape (rank, inputs), to initialize A.

    Ranks are moved to the layers where they explain most. `peft_config` must name its target modules.

    Raises:
        ConfigError: There are too few rows for the rank.
        ModelError: The components do not converge.
    """
    ranks = [config.lora_r, *config.rank_pattern.values()]
    need = round(max(ranks) * config.eva_rho)
    batches = _draw_full_batches(config, context, need)
    for similarity in _SIMILARITIES:
        peft_config.eva_config = replace(peft_config.eva_config, tau=similarity)
        try:
            return _run_eva(model, peft_config, batches, names, need)
        except _NotConvergedError:
            logger.warning("eva: components still turn by more than a similarity of %g allows", similarity)
    raise ModelError(
        f"peft.init_lora_weights: eva's components do not settle on {config.init_rows} rows; raise peft.init_rows or "
        "lower peft.lora_r"
    )


class _NotConvergedError(LoraNsError):
    """Some components have not converged after the last batch."""


def _run_eva(
    model: PreTrainedModel, peft_config: LoraConfig, batches: list[Batch], names: list[str], need: int
) -> dict[str, torch.Tensor]:
    run, steps = _forward_body(model, names), iter(range(_MOST_STEPS))

    def forward(_: Any, batch: Batch) -> None:
        if next(steps, None) is None:
            raise _NotConvergedError
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


def run_corda_pass(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor]:
    """Compute, for corda, the singular vectors of every layer's weight projected by its inputs' covariance.

    Raises:
        ConfigError: There are no rows.
        ModelError: A layer gets no inputs, or only one per row.
    """
    run = _forward_body(model, names)

    def run_rows() -> None:
        for row in _draw_batches(config, context, 1):  # one by one: peft would count padding among the inputs
            run(_move(row, model))

    try:
        with evaluating(model):
            preprocess_corda(model, peft_config, run_model=run_rows)
    except (ZeroDivisionError, IndexError):
        raise ModelError(
            "peft.target_modules: corda cannot see the inputs of one of these modules: no row reaches it, or it reads "
            "one vector for each row, as a pooler does; leave it out by peft.exclude_modules"
        ) from None
    return {f"{name}.{part}": getattr(model.get_submodule(name).eigens, part) for name in names for part in _EIGENS}


def run_lora_ga_pass(
    model: PreTrainedModel, peft_config: LoraConfig, config: Config, context: AttachContext, names: list[str]
) -> dict[str, torch.Tensor]:
    """Compute, for lora_ga, the mean gradient of every trained layer's weight over the rows.

    Raises:
        ConfigError: There are no rows.
    """

    def run_rows() -> None:
        for batch in _draw_batches(config, context, config.init_batch_size):
            model(**_move(batch, model)).loss.backward()

    preprocess_loraga(model, peft_config, run_rows)
    layers = {name: model.get_submodule(name) for name in names}
    return {name: layer._peft_loraga_grad for name, layer in layers.items() if hasattr(layer, "_peft_loraga_grad")}


def store_at_layers(model: PreTrainedModel, found: dict[str, torch.Tensor], names: list[str]) -> None:
    """Attach what corda or lora_ga computed to the layers, where peft looks for it."""
    for name in names:
        layer: Any = model.get_submodule(name)
        if name in found:
            layer._peft_loraga_grad = found[name]
        elif f"{name}.{_EIGENS[0]}" in found:
            layer.eigens = CordaEigens(**{part: found[f"{name}.{part}"] for part in _EIGENS})


def _draw_batches(config: Config, context: AttachContext, batch_size: int) -> list[Batch]:
    if context.training_batches is None:
        message = f"{config.init_lora_weights} looks at training rows, and there are none here; use true"
        raise ConfigError([Problem(message, "peft.init_lora_weights")])
    return context.training_batches(config.init_rows, batch_size)


def _draw_full_batches(config: Config, context: AttachContext, need: int) -> list[Batch]:
    """Draw batches with enough tokens each; peft would skip smaller ones, possibly forever."""
    size = config.init_batch_size
    while True:
        batches = _draw_batches(config, context, size)
        full = [batch for batch in batches if int(batch["attention_mask"].sum()) >= need]
        if len(full) >= max(1, len(batches) - 1):  # the last one may be short
            return [{key: each for key, each in batch.items() if key != "labels"} for batch in full]
        if len(batches) == 1:
            message = f"{config.init_rows} rows hold fewer than the {need} tokens that eva needs; raise it"
            raise ConfigError([Problem(message, "peft.init_rows")])
        size *= 2


def _real_inputs(states: Any, real: torch.Tensor, name: str, need: int) -> torch.Tensor:
    """Return a layer's inputs at real tokens, shape (tokens, inputs); one per row for a pooled layer."""
    first: torch.Tensor = states[0] if isinstance(states, (tuple, list)) else states
    inputs = first[real.T.unbind()] if first.ndim == 3 else first.reshape(-1, first.shape[-1]).contiguous()
    if len(inputs) < need:
        raise ModelError(
            f"peft.init_lora_weights: eva needs {need} inputs of {name} at a time and got {len(inputs)}; set "
            f"peft.init_batch_size: {need}, or leave the module out of target_modules"
        )
    return inputs


def _forward_body(model: PreTrainedModel, names: list[str]) -> Callable[[Batch], Any]:
    """Return a forward function that skips the output layer, which may be large, unless a target is in it."""
    prefix = model.base_model_prefix
    body: Any = model.base_model if all(name.startswith(f"{prefix}.") for name in names) else model
    return lambda batch: body(**{key: each for key, each in batch.items() if key != "labels"})


def _move(batch: Batch, model: PreTrainedModel) -> Batch:
    return {key: each.to(model.device) for key, each in batch.items()}


@contextmanager
def _without_hooks(model: PreTrainedModel, names: list[str]) -> Iterator[None]:
    """Remove the hooks that peft leaves on the layers when interrupted."""
    layers = [model.get_submodule(name) for name in names]
    before = [set(layer._forward_hooks) for layer in layers]
    try:
        yield
    finally:
        for layer, known in zip(layers, before, strict=True):
            for each in set(layer._forward_hooks) - known:
                del layer._forward_hooks[each]
