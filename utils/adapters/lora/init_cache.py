"""Caches on disk what an initialization computed from training rows (peft.init_cache).

A file's name is a hash of everything that affects its content: the base's weights, the rows' tokens, the layers, the
settings, the state of the random number generators, the libraries. The generators' state after the computation is
cached as well, so that a run is bit-for-bit the same with and without the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import peft
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from utils.adapters.adapter import AttachContext
from utils.adapters.lora.inits import kind_of
from utils.core.cache_folder import cache_folder
from utils.core.json_files import parse_json
from utils.core.model_configs import hash_config
from utils.core.replace_file import replace_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from utils.adapters.lora import Config

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]
_RANDOM = "random numbers"
_SETTINGS = {
    "eva": ("lora_r", "rank_pattern", "eva_rho", "init_batch_size"),
    "corda": ("lora_r", "rank_pattern", "corda_method"),
    "lora_ga": ("init_batch_size",),
}
"""What a computation depends on besides rows, layers and weights."""


def load_or_compute(
    compute: Callable[[], Tensors], model: PreTrainedModel, config: Config, context: AttachContext, names: list[str]
) -> Tensors:
    """Return the cached result, or compute and cache it."""
    if not config.init_cache or context.training_batches is None:
        return compute()
    file = cache_folder() / "init" / f"{kind_of(config.init_lora_weights)}-{_hash(model, config, context, names)}"
    file = file.with_suffix(".safetensors")
    if (found := _read(file)) is not None:
        logger.info("peft.init_cache: %s was computed before (%s)", config.init_lora_weights, file)
        _set_random_state(found)
        return found
    found = compute()
    _write(file, {**found, **_random_state()})
    return found


def _hash(model: PreTrainedModel, config: Config, context: AttachContext, names: list[str]) -> str:
    """Hash everything that affects the result."""
    assert context.training_batches is not None, "there are rows to look at"
    kind = kind_of(config.init_lora_weights)
    settings = {key: getattr(config, key) for key in _SETTINGS[kind]}
    versions = [torch.__version__, peft.__version__, str(model.device), torch.get_num_threads()]
    known = [kind, settings, sorted(names), versions, hash_config(model.config.to_dict())]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    tensors = {**dict(model.state_dict()), **_random_state()}
    for number, batch in enumerate(context.training_batches(config.init_rows, config.init_batch_size)):
        tensors |= {f"batch {number} {key}": value for key, value in batch.items()}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + _bytes_of(tensor))
    return digest.hexdigest()[:32]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _random_state() -> Tensors:
    state = {_RANDOM: torch.get_rng_state()}
    return state | ({f"{_RANDOM} cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(found: Tensors) -> None:
    torch.set_rng_state(found.pop(_RANDOM))
    if (state := found.pop(f"{_RANDOM} cuda", None)) is not None:
        torch.cuda.set_rng_state(state)


def _write(file: Path, tensors: Tensors) -> None:
    """Write the file; if the disk is full or read-only, warn and continue without it."""
    stored = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    devices = {name: str(each.device) for name, each in tensors.items()}
    try:
        with replace_file(file) as beside:
            save_file(stored, beside, {"devices": json.dumps(devices), "sha256": _checksum(stored)})
    except (OSError, SafetensorError) as error:
        logger.warning("peft.init_cache: %s cannot be written (%s)", file, error)


def _read(file: Path) -> Tensors | None:
    """Read a file; return None if it does not exist or, with a warning, if it is damaged."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as held:
            names = held.keys()  # a method of safetensors: the file is not iterable
            facts, stored = held.metadata() or {}, {name: held.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        facts, stored = {}, {}
    if facts.get("sha256") != _checksum(stored):
        logger.warning("peft.init_cache: %s is damaged; it is computed again", file)
        return None
    devices: dict[str, str] = parse_json(facts["devices"])
    return {name: each.to(devices[name]) for name, each in stored.items()}


def _checksum(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + _bytes_of(tensor))
    return digest.hexdigest()
