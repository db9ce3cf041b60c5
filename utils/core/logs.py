"""Logging to the terminal: our own messages on standard error, with libraries' messages silenced."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings

from utils.core.errors import UserError
from utils.core.project import PACKAGE, as_called
from utils.core.secrets import mask_text
from utils.core.terminal import show_controls

_NOISE = (
    "transformers",
    "datasets",
    "peft",
    "trl",
    "accelerate",
    "bitsandbytes",
    "evaluate",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "filelock",
)

_RANKS = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
TELEMETRY_SWITCHES = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")


def is_main_process() -> bool:
    """Return whether this process is the one that logs (rank 0, or the only one)."""
    return os.environ.get("RANK", "0") == "0"


def require_ranks() -> None:
    """Check the environment variables by which a launcher numbers its processes; a wrong one would lose all output.

    Raises:
        UserError: A variable is not a whole number, is out of range, or is missing.
    """
    given = {name: os.environ[name] for name in _RANKS if name in os.environ}
    for name, value in given.items():
        if not re.fullmatch("0|[1-9][0-9]{0,8}", value):
            raise UserError(f"the environment variable {name} is {value!r}, no whole number from 0; unset it")
    numbers = {name: int(value) for name, value in given.items()}
    total = numbers.get("WORLD_SIZE", 1)
    for name, count in (("RANK", total), ("LOCAL_RANK", numbers.get("LOCAL_WORLD_SIZE", total))):
        if (number := numbers.get(name, 0)) >= count:
            raise UserError(f"the environment variable {name} is {number} of {count} processes; unset what names them")
        if total > 1 and name not in numbers:
            raise UserError(
                f"the environment variable WORLD_SIZE is {total}, and {name} is not set: start the processes by "
                "torchrun --nproc_per_node N, or unset it"
            )
    if total > 1 and not 0 < numbers.get("MASTER_PORT", 29500) < 2**16:
        raise UserError(f"the environment variable MASTER_PORT is {given['MASTER_PORT']}, no port; unset it")


def start_logs() -> None:
    """Send our log messages to standard error; only the main process logs more than errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    ours = logging.getLogger(PACKAGE)
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(logging.INFO if is_main_process() else logging.ERROR)


def prepare_libraries() -> None:
    """Silence library messages that a user can do nothing about; errors still appear.

    Call it before the libraries are imported, since it sets environment variables that they read on import. One of them
    makes torch request tensor memory in pages of 2 MiB, which Linux provides several times faster.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # it requests a conversion from a service of the hub
    _switch_telemetry_off()
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # DeepSpeed sets its logger's level on import, and warns at every start that it runs on a CPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    for name in _NOISE:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
    warnings.filterwarnings("ignore", message=".*fan_in_fan_out is set to.*")
    warnings.filterwarnings("ignore", message="Unsupported layer type .*Norm")  # the purpose of ln_tuning
    warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*")
    warnings.filterwarnings("ignore", message=".*rank_pattern.*keys did not match.*")


def _switch_telemetry_off() -> None:
    """Disable the libraries' telemetry, unless the user has already set one of the switches."""
    if not any(name in os.environ for name in TELEMETRY_SWITCHES):
        os.environ.update(dict.fromkeys(TELEMETRY_SWITCHES, "1"))


class _LineFormatter(logging.Formatter):
    """Plain text for information; a level prefix for warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        text = show_controls(mask_text(as_called(record.getMessage())))
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"
