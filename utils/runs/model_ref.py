"""References to models that are not loaded yet: a trained one with its configuration, or a published one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from utils.adapters.adapter import load_adapter
from utils.adapters.saved_adapter import (
    ADAPTER_CONFIG,
    explain_damage,
    list_stored,
    require_adapter_file,
    require_every_tensor,
)
from utils.config.run_config import RunConfig
from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError, UserError
from utils.modeling.head import build_head_spec, list_grown_rows, list_new_modules, list_new_weights
from utils.modeling.quantization import load_model_config, read_format
from utils.runs.inputs import require_unchanged_base
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.modeling.head import HeadSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Saved:
    """Weights that a method has saved, and their base."""

    weights: Path
    section: ModelSection
    method: str
    name: str
    run: Path | None = None

    def load(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        """Load the weights on their base."""
        from utils.modeling.base_model import load_base_model

        def load_base(folder: str | None) -> PreTrainedModel:
            section = self.section
            if folder is not None:  # it holds the whole trained model
                section = section.model_copy(update={"name_or_path": folder, "revision": None})
            return load_base_model(section, tokenizer, head)

        model = load_adapter(self.method).load(self.weights, load_base)
        if model is None:  # a user's own method
            raise UserError(f"peft.method: load of {self.method} returned None; it has to return the model")
        self._require_trained(model)
        return model

    def _require_trained(self, model: PreTrainedModel) -> None:
        """Check that the weights include every trained part of the model, which would be random otherwise."""
        require_every_tensor(model, self.weights, self.name, self.section.name_or_path)
        plain: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        # An adapter has the head that its base lacks; embedding rows that were added must come from it too.
        lacking = list_new_weights(plain) if plain is model else []
        rows = list_grown_rows(plain)
        if rows and self.run is not None and not (plain is not model and _holds_rows(model, self.weights, rows)):
            lacking.append(f"rows {rows.start} to {rows.stop - 1} of the embeddings")
        if lacking:
            raise ModelError(
                f"{self.name}: the files in {self.weights} lack {', '.join(lacking)} (or hold them in another shape), "
                "which were trained and would be random here; copy the folder again"
            )


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: its weights, and the configuration of its training."""

    weights: Path
    """Folder of the adapter or the whole model."""
    config: RunConfig
    label_names: tuple[str, ...]
    """Names in the order of the ids; empty for regression and language models."""
    name: str
    """The user's name for the model."""
    run: Path | None = None
    """The run's folder; None: the weights were made elsewhere."""

    @property
    def title(self) -> str:
        """Name of the model for messages."""
        return f"{self.name} ({self.weights.name})"

    @property
    def generates(self) -> bool:
        """Whether the model generates text; else it outputs labels or numbers."""
        return load_task(self.config.task).GENERATES

    @property
    def judges(self) -> bool:
        """Whether the model scores answers that others wrote."""
        return load_task(self.config.task).JUDGES

    @property
    def head(self) -> HeadSpec | None:
        """The classifier's head; None for a language model."""
        return load_task(self.config.task).build_head(self.label_names)

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are an adapter in peft's layout; else they are a whole model."""
        return (self.weights / ADAPTER_CONFIG).is_file()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer saved with the weights; for an adapter without one, the base's."""
        from utils.modeling.tokenizer import load_tokenizer

        own = any((self.weights / file).is_file() for file in ("tokenizer_config.json", "config.json"))
        if not own and self.run is not None:
            logger.warning("%s has no tokenizer; that of %s is used", self.weights, self.config.model.name_or_path)
        with self._explained():
            return load_tokenizer(self.config.model, str(self.weights) if own else None)

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the model as it was trained, and its tokenizer; see `load_model`."""
        tokenizer = self.load_tokenizer()
        return self.load_model(tokenizer), tokenizer

    def load_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Load the model as it was trained, on a quantized base if it was trained on one.

        Raises:
            ModelError: A file is damaged, or does not fit the base, or the base has changed.
        """
        with self._explained():
            if self.is_adapter:
                require_unchanged_base(self.run, self.config.model, self.name)
            saved = _Saved(self.weights, self.config.model, self.config.peft.method, self.name, self.run)
            return saved.load(tokenizer, self.head)

    def load_unquantized(self, tokenizer: PreTrainedTokenizerBase, dtype: str) -> PreTrainedModel:
        """Load the adapter on the unquantized base, as merging into quantized weights would destroy them.

        `dtype` is a value of `model.dtype`; `auto` is the dtype the base is stored in, or bfloat16 if it was quantized.

        Raises:
            UserError: The base itself is a quantized checkpoint: the update would be rounded with its weights.
        """
        model = self.config.model
        if stored := read_format(load_model_config(model)):
            raise UserError(
                f"{self.name}: its base {model.name_or_path} is stored as {stored}, so there is no unquantized base to "
                "merge into; use the adapter on that base, or put it on the checkpoint that the base was made from: "
                "--config with that model.name_or_path, and --adapter_path"
            )
        if dtype == "auto":
            dtype = model.dtype if model.quantization is None else "bfloat16"
        plain = {"quantization": None, "device_map": None, "attn_implementation": "sdpa", "dtype": dtype}
        return self.with_section(model.model_copy(update=plain)).load_model(tokenizer)

    def with_section(self, section: ModelSection) -> TrainedModel:
        """Return the same model with another `model:` section, such as another base."""
        return replace(self, config=replace(self.config, model=section))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors about the folder's files into one sentence."""
        model = self.config.model
        with explain_damage(self.name, model.name_or_path):
            require_adapter_file(self.weights, self.name, self.config.peft.peft_type, model.allow_pickle)
            yield


@dataclass(frozen=True)
class PublishedModel:
    """A model without a run: a hub name or a folder, alone or with an adapter made elsewhere."""

    name: str
    section: ModelSection
    generates: bool
    judges = False  # its rows would be texts: nothing tells what a prompt is
    label_names: tuple[str, ...] = ()
    """The checkpoint's own label names, in the order of the ids; empty for regression and language models."""
    adapter: Path | None = None
    """The adapter's folder, in peft's layout."""
    method: str = "none"
    """The method that loads the adapter."""
    config: ClassVar[None] = None
    run: ClassVar[None] = None

    @property
    def title(self) -> str:
        """Name of the model for messages."""
        return self.name

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the model's own tokenizer: the adapter's if it has one, else the base's."""
        from utils.modeling.tokenizer import load_tokenizer

        own = self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file()
        return load_tokenizer(self.section, str(self.adapter) if own else None)

    def load_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Load the model; a checkpoint that lacks its head is rejected."""
        head = None if self.generates else build_head_spec(self.label_names)
        model, new = self.load_with_head(tokenizer, head)
        if new:
            raise ModelError(f"--model {self.name}: its checkpoint lacks {', '.join(new)}, which were random")
        return model

    def load_with_head(
        self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None
    ) -> tuple[PreTrainedModel, list[str]]:
        """Load the model with a head for some labels; return it and the modules that its checkpoint lacks."""
        from utils.modeling.base_model import load_base_model

        if self.adapter is not None:
            with explain_damage(self.name, self.section.name_or_path):
                require_adapter_file(self.adapter, self.name, self.method, self.section.allow_pickle)
                return _Saved(self.adapter, self.section, self.method, self.name).load(tokenizer, head), []
        model = load_base_model(self.section, tokenizer, head)
        return model, list_new_modules(model)


ModelRef: TypeAlias = TrainedModel | PublishedModel


def _holds_rows(adapted: Any, weights: Path, rows: range) -> bool:
    """Return whether an adapter contains these embedding rows, row by row or as the whole matrix."""
    for config in adapted.peft_config.values():
        indices = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or {}
        listed = indices.values() if isinstance(indices, dict) else [indices]
        if any(set(rows) <= set(each) for each in listed):
            return True
    plain = adapted.get_base_model()
    layer = plain.get_input_embeddings()
    name = next(path for path, part in plain.named_modules() if part is layer).rpartition(".")[2]
    return any(key.endswith(f".{name}.weight") for key in list_stored(weights) or ())
