"""What stands around training: signals obeyed where nothing is lost, and the machine's failures as one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from utils.core.errors import LoraNsError
from utils.core.signals import deferred
from utils.trainer.callbacks.progress import ProgressCallback
from utils.trainer.callbacks.watching import LossWatch
from utils.trainer.full_disk import explain_full_disk
from utils.trainer.out_of_memory import explain_out_of_memory
from utils.trainer.resume import ExactResume
from utils.trainer.saving import AtomicCheckpoints
from utils.trainer.watchdogs import NanGuard

if TYPE_CHECKING:
    from utils.config.sections.training import OwnTrainingSection

_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)")
_HANDED_OVER = str(Path("multiprocessing") / "resource_sharer.py")
_PEER = re.compile(r"Connection closed by peer|Connection reset by peer|Broken pipe|remote process exited", re.I)


class LostProcessError(LoraNsError):
    """A process that this one works with has ended."""


class FaultTolerant(ExactResume, NanGuard, AtomicCheckpoints):
    """What keeps a run from losing anything; stands before a `transformers.Trainer` among a class's bases."""

    def configure(self, section: OwnTrainingSection) -> None:
        """Take the settings of the `training:` section that say what is to be done when something goes wrong."""
        self.on_full_disk = section.on_full_disk
        self.try_longest = section.try_longest_batch
        self.add_callback(LossWatch(section.on_divergence))  # type: ignore[attr-defined]  # the Trainer's


@contextmanager
def guard_training(trainer: Any, length_key: str) -> Iterator[None]:
    """Guard training and scoring.

    Args:
        trainer: Whose run it is.
        length_key: The setting that holds the length of rows, with its value.

    Raises:
        Interrupted: A signal asked for it; what was trained is in a checkpoint.
        LoraNsError: Memory or disk ran out, or a process was lost.
    """
    with ExitStack() as stack:
        stack.enter_context(explain_out_of_memory(trainer.args, length_key))
        stack.enter_context(explain_full_disk(Path(trainer.args.output_dir)))
        stack.enter_context(explain_lost_process())
        stack.callback(_close_progress, trainer)
        stack.enter_context(deferred())
        yield


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn what torch raises when a data loader's worker or another rank is gone into a sentence.

    Raises:
        LostProcessError: In place of the library's error.
    """
    try:
        yield
    except (OSError, EOFError) as error:
        # What a worker hands over is fetched from it, which fails in a way of its own when it has died meanwhile.
        if not any(each.filename.endswith(_HANDED_OVER) for each in extract_tb(error.__traceback__)):
            raise
        raise LostProcessError(
            "a data loader's worker has ended; for want of memory it may be: lower training.dataloader_num_workers, or "
            "set it to 0, and --resume"
        ) from None
    except RuntimeError as error:
        text = str(error)
        if worker := _WORKER.search(text):
            how = text.partition("is killed by signal: ")[2].partition(".")[0]
            ended = f"was killed ({how})" if how else "has ended"
            raise LostProcessError(
                f"a data loader's worker (process {worker[1]}) {ended}; for want of memory it may be: lower "
                "training.dataloader_num_workers, or set it to 0, and --resume"
            ) from None
        if _PEER.search(text):
            raise LostProcessError(
                "another process of this run has ended, and its own message says why; --resume goes on from the last "
                "checkpoint"
            ) from None
        raise


def _close_progress(trainer: Any) -> None:
    """Give the terminal back, however training ended."""
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, ProgressCallback):
            each.close()
