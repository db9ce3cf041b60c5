"""The keys of a model's configuration (config.json) that its results depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_IRRELEVANT = frozenset({
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id", "quantization_config",
    "torch_dtype", "transformers_version", "use_cache",
})  # fmt: skip
"""Keys that training and loading set, or that the weights show."""


def hash_config(keys: Mapping[str, Any]) -> str:
    """Hash a configuration without names, versions and token ids: weights with another `rope_theta` differ."""
    return hashlib.sha256(json.dumps(_select(keys), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _select(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _select(each) for key, each in value.items() if key not in _IRRELEVANT}
    return value
