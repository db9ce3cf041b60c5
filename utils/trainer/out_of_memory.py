"""What to do when memory runs out, said in one sentence instead of a traceback."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from utils.core.errors import LoraNsError


class MemoryExhaustedError(LoraNsError):
    """The device's memory does not hold a step of this run."""


@contextmanager
def explain_out_of_memory(arguments: Any, length_key: str) -> Iterator[None]:
    """Turn the library's error into the three settings to change.

    Args:
        arguments: The trainer's arguments, for the values that ran out.
        length_key: The setting that holds the length of rows, with its value.

    Raises:
        MemoryExhaustedError: In place of torch.OutOfMemoryError.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        first_line = (str(error).strip().splitlines() or ["out of memory"])[0]
        sentence = _advise(arguments, length_key, first_line)
    else:
        return
    gc.collect()  # outside the handler: the traceback holds the step's tensors
    raise MemoryExhaustedError(sentence)


def _advise(arguments: Any, length_key: str, library: str) -> str:
    batch, steps = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    smaller = max(1, batch // 2)
    change = [
        f"training.per_device_train_batch_size: {smaller} with training.gradient_accumulation_steps: "
        f"{steps * batch // smaller} (the same step in smaller parts)"
        if batch > 1
        else "model.quantization: nf4 (the base in 4 bits)",
        "training.gradient_checkpointing: true (a slower step that keeps less)"
        if not arguments.gradient_checkpointing
        else "training.optim: paged_adamw_8bit (optimizer states in 8 bits)",
        f"a smaller {length_key}",
    ]
    if length_key.startswith("sft"):
        change.append("if it ran out while evaluating, training.per_device_eval_batch_size or generation.batch_size")
    return f"out of memory ({library}); change one of: {'; '.join(change)}; then --resume or --overwrite"
