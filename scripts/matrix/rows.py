"""Rows of the matrix: every method of utils/adapters, LoRA's variants, and LoRA's initialisations on two families."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scripts.matrix.families import DECODERS, TITLES
from utils.core import registry

TASKS = ("SEQ_CLS", "CAUSAL_LM")
QUANTIZATIONS = ("none", "nf4", "int8")

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {"DoRA": {"use_dora": True}, "rsLoRA": {"use_rslora": True}},
}
"""Additional rows of methods: their titles, and the keys of `peft:` that select them."""

_SMALL: dict[str, dict[str, Any]] = {
    "c3a": {"block_size": 16}, "fourierft": {"n_frequency": 64}, "waveft": {"n_frequency": 64}, "miss": {"r": 8},
    "road": {"group_size": 16}, "qst": {"reduction_factor": 4}, "psoft": {"r": 8}, "shira": {"r": 4},
    "vblora": {"vector_length": 16}, "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "trainable_tokens": {"token_indices": list(range(4, 60))},
}  # fmt: skip
"""Keys of methods whose defaults are for wider models than the tiny ones."""

INITS = ("gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora", "eva", "corda", "lora_ga", "loftq", "mica")
INIT_FAMILIES = ("llama", "bert")


@dataclass(frozen=True)
class Row:
    """One row of the matrix: a method, optionally with extra settings."""

    title: str
    method: str
    keys: dict[str, Any] = field(default_factory=dict)
    families: tuple[str, ...] = tuple(TITLES)


@dataclass(frozen=True)
class Cell:
    """One combination to try."""

    row: Row
    task: str
    family: str
    quantization: str

    @property
    def name(self) -> str:
        """The cell's name, also of its folder."""
        return f"{self.row.title}--{self.task}--{self.family}--{self.quantization}".replace(" ", "_")


def list_rows() -> list[Row]:
    """List all rows: methods by name, each followed by its variants, then the initialisations."""
    rows = []
    for plugin in registry.names("adapters"):
        method: str = registry.load("adapters", plugin).Config.model_fields["method"].default
        small = _SMALL.get(plugin, {})
        rows.append(Row(method, method, small))
        rows += [
            Row(f"{method} ({name})", method, {**small, **keys}) for name, keys in VARIANTS.get(plugin, {}).items()
        ]
    return [*rows, *(Row(f"lora: {name}", "lora", {"init_lora_weights": name}, INIT_FAMILIES) for name in INITS)]


def list_cells(rows: list[Row], family: str, quantization: str) -> list[Cell]:
    """List the combinations of one family and one quantization; encoders have no language model."""
    tasks = TASKS if family in DECODERS else TASKS[:1]
    return [Cell(row, task, family, quantization) for row in rows if family in row.families for task in tasks]
