"""What is logged on the terminal: our own lines on standard error, the libraries' chatter silenced."""

from __future__ import annotations

import logging
import os
import sys
import warnings

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

TELEMETRY_SWITCHES = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")


def is_main_process() -> bool:
    """Tell whether this process is the one that speaks (rank 0, or the only one)."""
    return os.environ.get("RANK", "0") == "0"


def start_logs() -> None:
    """Send our log lines to standard error; only the main process says more than warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    ours = logging.getLogger(PACKAGE)
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(logging.INFO if is_main_process() else logging.ERROR)


def prepare_libraries() -> None:
    """Turn down library messages that a user can do nothing about; errors still come through.

    Call it before the libraries are imported: it sets environment variables that they read then. By one of them torch
    asks Linux for its tensors in pages of 2 MiB, which it is given, and given zeroed, several times faster.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # it asks a service of the hub for a conversion
    _switch_telemetry_off()
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # DeepSpeed sets its logger's level when imported, and says at every start that a CPU is a CPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    for name in _NOISE:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message=".*save_embedding_layers.*")
    warnings.filterwarnings("ignore", message=".*fan_in_fan_out is set to.*")
    warnings.filterwarnings("ignore", message="Unsupported layer type .*Norm")  # what ln_tuning is for
    warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*")
    warnings.filterwarnings("ignore", message=".*rank_pattern.*keys did not match.*")


def _switch_telemetry_off() -> None:
    """Let no library count our users, unless one of the switches is set already: the choice is the user's."""
    if not any(name in os.environ for name in TELEMETRY_SWITCHES):
        os.environ.update(dict.fromkeys(TELEMETRY_SWITCHES, "1"))


class _LineFormatter(logging.Formatter):
    """Plain sentences for information, a marked one for warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one line."""
        text = show_controls(mask_text(as_called(record.getMessage())))
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"
