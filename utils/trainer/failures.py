"""Guard training: act on signals where nothing is lost, and turn failures of the machine into one-sentence errors."""

from __future__ import annotations

import errno
import gc
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

from utils.core.errors import LoraNsError
from utils.core.library_errors import is_full_disk, is_out_of_memory
from utils.core.signals import deferred

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

_FAILING = (errno.EIO, errno.EROFS, errno.ESTALE)
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)")
_HANDED_OVER = str(Path("multiprocessing") / "resource_sharer.py")
_PEER = re.compile(r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited", re.I)
_FEWER_WORKERS = "possibly out of memory: lower training.dataloader_num_workers, or set it to 0, and --resume"


class DiskFullError(LoraNsError):
    """The disk is full."""


class MemoryExhaustedError(LoraNsError):
    """A step of this run does not fit into the device's memory."""


class LostProcessError(LoraNsError):
    """Another process of this run has ended."""


@contextmanager
def guard_training(trainer: Trainer, length_key: str) -> Iterator[None]:
    """Guard training and scoring; `length_key` is the key of the maximum row length.

    Raises:
        Interrupted: A signal asked for it; the training so far is in a checkpoint.
        LoraNsError: Memory or disk is full, or a process was lost.
    """
    from utils.trainer.progress import ProgressCallback

    with (
        explain_out_of_memory(trainer.args, length_key),
        explain_full_disk(Path(trainer.args.output_dir)),
        explain_lost_process(),
        ExitStack() as stack,
        deferred(),
    ):
        for each in trainer.callback_handler.callbacks:
            if isinstance(each, ProgressCallback):
                stack.callback(each.close)  # restores the terminal however training ended
        yield


@contextmanager
def explain_out_of_memory(arguments: TrainingArguments, length_key: str) -> Iterator[None]:
    """Turn the library's out-of-memory error into advice on settings to change, `length_key` among them.

    Raises:
        MemoryExhaustedError: Instead of torch.OutOfMemoryError, or of the RuntimeError that it raises on CPUs.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        first_line = (str(error).strip().splitlines() or ["out of memory"])[0]
        sentence = _advise(arguments, length_key, first_line)
    else:
        return
    gc.collect()  # outside the handler, where the traceback would keep the step's tensors alive
    raise MemoryExhaustedError(sentence)


def _advise(arguments: TrainingArguments, length_key: str, library: str) -> str:
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
    if not length_key.startswith("dataset."):
        change.append("if it ran out while evaluating, training.per_device_eval_batch_size or generation.batch_size")
    return f"out of memory ({library}); change one of: {'; '.join(change)}; then --resume or --overwrite"


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn errors of a full or failing disk into one sentence.

    Raises:
        DiskFullError: Instead of the library's error.
    """
    try:
        yield
    except Exception as error:  # tokenizers raises nothing narrower
        if isinstance(error, OSError) and error.errno in _FAILING:
            raise DiskFullError(f"the disk of {folder} fails: {error.strerror}; complete files stay") from None
        if not is_full_disk(error):
            raise
        free = format_size(measure_free(folder))
        raise DiskFullError(
            f"the disk of {folder} is full ({free} free); complete files stay: free some space, then --resume"
        ) from None


def measure_free(folder: Path) -> int:
    """Return the free bytes where a folder is, or will be."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def format_size(num_bytes: float) -> str:
    """Format a number of bytes for people."""
    for unit in ("bytes", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn torch's errors about an ended data loader worker or another rank into one sentence.

    Raises:
        LostProcessError: Instead of the library's error.
    """
    try:
        yield
    except (OSError, EOFError) as error:
        # Fetching a worker's tensors fails differently if the worker has died in the meantime.
        if not any(each.filename.endswith(_HANDED_OVER) for each in extract_tb(error.__traceback__)):
            raise
        raise LostProcessError(f"a data loader's worker has ended; {_FEWER_WORKERS}") from None
    except RuntimeError as error:
        text = str(error)
        if worker := _WORKER.search(text):
            how = text.partition("is killed by signal: ")[2].partition(".")[0]
            ended = f"was killed ({how})" if how else "has ended"
            raise LostProcessError(f"a data loader's worker (process {worker[1]}) {ended}; {_FEWER_WORKERS}") from None
        if _PEER.search(text):
            raise LostProcessError(
                "another process of this run has ended, and its own message says why; --resume continues from the last "
                "checkpoint"
            ) from None
        raise
