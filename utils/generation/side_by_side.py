"""Runs the batches of a model on a CPU side by side, a core each: small matrices shared by many cores wait more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_side_by_side(model: PreTrainedModel, run: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Run a function on every item; on a CPU as many at a time as torch has threads, where there are enough items.

    A quantized model runs alone: its layers pack themselves at their first use.

    Args:
        model: The model that `run` asks.
        run: Changes nothing that it shares.
        items: Batches.

    Yields:
        The results in the items' order.
    """
    import torch

    num_threads = torch.get_num_threads()
    alone = model.device.type != "cpu" or getattr(model, "is_quantized", False)
    if alone or num_threads == 1 or len(items) < 2 * num_threads:
        yield from map(run, items)
        return
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(num_threads)
    try:
        yield from pool.map(run, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)
