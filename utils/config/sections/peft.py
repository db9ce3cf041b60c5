"""The `peft:` section, which every method extends, and the limits that a method declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field

from utils.config.section import Section
from utils.core import registry


@dataclass(frozen=True)
class Limits:
    """What a method cannot do. Each limit is None, or the sentence that says why and what works instead."""

    quantization: str | None = None
    """On a 4-bit or 8-bit base."""
    causal_lm: str | None = None
    """For a language model, which has no new head."""
    classification: str | None = None
    """For a classifier, whose new head is trained whole."""
    packing: str | None = None
    """With several documents in one row."""
    gradient_checkpointing: str | None = None
    """With activations recomputed in the backward pass."""
    sharding: str | None = None
    """With the weights spread over processes (FSDP, ZeRO-3)."""
    merge: str | None = None
    """Merging into the base weights."""
    as_lora: str | None = "peft converts no adapter of this method into LoRA"
    """Being converted into a LoRA of some rank."""
    serving: str | None = (
        "it takes adapters of lora alone; merge it into its base by merge_adapter.py, and serve the merged model"
    )
    """Being loaded by a server of adapters, such as vLLM."""
    adapter_path: str | None = None
    """Training on from a saved adapter."""
    router_loss: str | None = None
    """Balancing the experts of a mixture by a loss of their own."""
    model_types: dict[str, str] = field(default_factory=dict)
    """By `model_type` of the base's config.json."""


class AdapterSection(Section):
    """The `peft:` section; every method adds its own flat fields."""

    LIMITS: ClassVar[Limits] = Limits()
    SHARED_FIELDS: ClassVar[frozenset[str]] = frozenset({"method", "task_type", "adapter_path", "init_seed"})
    SAVED_AS: ClassVar[str | None] = None
    """peft's type of what the method saves; None: its own name."""
    DEFAULT_LEARNING_RATE: ClassVar[float | None] = None
    """Taken where the file does not set training.learning_rate; None: the library's own, as for all weights."""
    NOT_INHERITED: ClassVar[frozenset[str]] = frozenset()
    """Fields that mean something else than in other methods: a switch to this one leaves them behind."""
    OWNED: ClassVar[dict[str, str]] = {
        "base_model_name_or_path": "set model.name_or_path", "revision": "set model.revision",
        "peft_type": "set peft.method", "inference_mode": "an adapter is attached to be trained, loaded to be used",
        "auto_mapping": "peft writes it itself", "peft_version": "peft writes it itself",
        "token_dim": "read from the base model", "num_layers": "read from the base model",
        "num_attention_heads": "read from the base model", "num_transformer_submodules": "it is always 1 here",
    }  # fmt: skip
    """Fields of peft's configurations with another home."""

    method: str
    """Name of the method: a plug-in of `utils/adapters`."""
    task_type: str | None = None
    """Accepted from older files; it must agree with the file's `task_type`."""
    adapter_path: str | None = None
    """Train on from this adapter: a run, or any folder in peft's layout. What the section leaves out is the adapter's
    (its rank, its modules ...), and what it says must agree; the base has to be the adapter's own. The chat template,
    added tokens and pad token of a run are taken too where the section model names none. null: from new weights."""

    init_seed: int | None = Field(None, ge=0, lt=2**32)
    """Seed of the adapter's initial weights, and of the rows that an initialisation looks at; null: the run's seed."""

    @property
    def peft_type(self) -> str:
        """The type that adapter_config.json names, in lower case."""
        return registry.normalize(self.SAVED_AS or self.method)

    def find_unservable(self) -> str | None:
        """Say which setting keeps a server of adapters from loading what is saved; None: none does."""
        return None

    @property
    def virtual_tokens(self) -> int:
        """Positions of the model that the method takes for itself."""
        return 0

    def find_conflicts(self, quantization: str | None = None) -> dict[str, str]:
        """Give by key what cannot stand beside this section's other keys, or on a base stored as nf4, fp4, int8 ..."""
        return {}

    def find_unused(self) -> dict[str, str]:
        """Give by key the reason why its value has no effect beside the others."""
        return {}

    def learning_rates(self, model: Any, learning_rate: float) -> dict[str, float]:
        """Give by name the parameters of the adapted model that learn at another rate than the run's."""
        return {}
