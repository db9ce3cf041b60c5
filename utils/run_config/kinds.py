"""Tells what a configuration file describes: a run, a suite, or settings of accelerate or DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from utils.config.document import Document
from utils.config.yaml_text import read_document
from utils.core.errors import ConfigError, Problem

Kind = Literal["run", "suite", "accelerate", "deepspeed"]

_SUITE_SIGNS = {"suite", "tasks", "methods"}
_ACCELERATE_SIGNS = {"compute_environment", "distributed_type", "num_processes", "fsdp_config", "deepspeed_config"}
_DEEPSPEED_SIGNS = {"zero_optimization", "train_micro_batch_size_per_gpu"}
_READERS: dict[Kind, str] = {
    "suite": "a suite, not a run; start it by python benchmark.py --config {}",
    "accelerate": "settings of accelerate, not a run; start a run by accelerate launch --config_file {} train.py ...",
    "deepspeed": "settings of DeepSpeed, not a run; name them in a run's file by training.deepspeed: {}",
}


def find_kind(path: Path) -> Kind:
    """Return what a file describes; an unreadable file counts as a run, whose check reports the problem."""
    if path.suffix == ".json":
        return "deepspeed"
    try:
        return kind_of(read_document(path))
    except ConfigError:
        return "run"


def kind_of(document: Document) -> Kind:
    """Return what a document describes, by its keys at the top."""
    keys = document.data.keys()
    if keys & _SUITE_SIGNS:
        return "suite"
    if "model" in keys:
        return "run"
    if keys & _ACCELERATE_SIGNS:
        return "accelerate"
    return "deepspeed" if keys & _DEEPSPEED_SIGNS else "run"


def require_run(document: Document, path: str | Path) -> None:
    """Check that a file describes a run.

    Raises:
        ConfigError: It describes something else; the message names the command that reads such a file.
    """
    if hint := _READERS.get(kind_of(document)):
        raise ConfigError([Problem(hint.format(path), place=str(path))])
