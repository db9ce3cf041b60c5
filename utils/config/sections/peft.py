"""The `peft:` section, which every method extends, and the limits that a method declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field

from utils.config.section import Section
from utils.core import registry


@dataclass(frozen=True)
class Limits:
    """What a method does not support: for each limit None, or a sentence with the reason and the alternative."""

    quantization: str | None = None
    """Training on a 4-bit or 8-bit base."""
    causal_lm: str | None = None
    """Training a language model, which has no new head."""
    classification: str | None = None
    """Training a classifier, whose new head is trained in full."""
    packing: str | None = None
    """Packing several documents into one row."""
    gradient_checkpointing: str | None = None
    """Recomputing activations in the backward pass."""
    sharding: str | None = None
    """Sharding the weights over processes (FSDP, ZeRO-3)."""
    merge: str | None = None
    """Merging into the base weights."""
    as_lora: str | None = "peft converts no adapter of this method into LoRA"
    """Conversion to a LoRA adapter."""
    serving: str | None = (
        "it only takes adapters of lora; merge it into its base by merge_adapter.py, and serve the merged model"
    )
    """Loading by a server that serves adapters, such as vLLM."""
    adapter_path: str | None = None
    """Continuing training from a saved adapter."""
    router_loss: str | None = None
    """Training a mixture-of-experts router with a load-balancing loss."""
    model_types: dict[str, str] = field(default_factory=dict)
    """Unsupported architectures, by `model_type` of the base's config.json."""


class AdapterSection(Section):
    """The `peft:` section; each method adds its own fields."""

    LIMITS: ClassVar[Limits] = Limits()
    SHARED_FIELDS: ClassVar[frozenset[str]] = frozenset({"method", "task_type", "adapter_path", "init_seed"})
    SAVED_AS: ClassVar[str | None] = None
    """peft type under which the adapter is saved; None: the method's name."""
    DEFAULT_LEARNING_RATE: ClassVar[float | None] = None
    """Used if the file sets no training.learning_rate; None: transformers' default."""
    NOT_INHERITED: ClassVar[frozenset[str]] = frozenset()
    """Fields with a different meaning in other methods, not carried over when a file switches to this method."""
    OWNED: ClassVar[dict[str, str]] = {
        "base_model_name_or_path": "set model.name_or_path", "revision": "set model.revision",
        "peft_type": "set peft.method", "inference_mode": "an adapter is attached to be trained, loaded to be used",
        "auto_mapping": "peft writes it itself", "peft_version": "peft writes it itself",
        "token_dim": "read from the base model", "num_layers": "read from the base model",
        "num_attention_heads": "read from the base model", "num_transformer_submodules": "it is always 1 here",
    }  # fmt: skip
    """Fields of peft's configurations that are set elsewhere."""

    method: str
    """Name of the method, a plug-in of `utils/adapters`."""
    task_type: str | None = None
    """Accepted from older files; must match the file's `task_type`."""
    adapter_path: str | None = None
    """Continue training from this adapter: a run, or any folder in peft's layout. Keys missing here come from the
    adapter (its rank, its modules ...), keys given must match it, and the base must be the adapter's own. A run's chat
    template, added tokens and pad token are also taken over unless the section model sets them. null: new weights."""

    init_seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the adapter's initial weights, and of the rows that an initialization samples; null: the run's seed."""

    @property
    def peft_type(self) -> str:
        """The `peft_type` of adapter_config.json, in lower case."""
        return registry.normalize(self.SAVED_AS or self.method)

    def find_unservable(self) -> str | None:
        """Describe the setting that keeps a server from loading the saved adapter, or None if it can be served."""
        return None

    @property
    def virtual_tokens(self) -> int:
        """Number of the model's positions that the method uses for virtual tokens."""
        return 0

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Return, by key, conflicts with other keys or with the base's quantization (nf4, fp4, int8 ...)."""
        return {}

    def find_unused(self) -> dict[str, str]:
        """Return, by key, why its value has no effect."""
        return {}

    def learning_rates(self, model: Any, learning_rate: float) -> dict[str, float]:
        """Return, by parameter name, learning rates that differ from the run's."""
        return {}
