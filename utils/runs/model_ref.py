"""A model that is not loaded yet: a trained one with all that is known of it, or one as it was published."""

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
    """Weights that a method has saved, and the base that they belong to."""

    weights: Path
    section: ModelSection
    method: str
    name: str
    run: Path | None = None

    def load(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        """Load them on their base."""
        from utils.modeling.base_model import load_base_model

        def load_base(folder: str | None) -> PreTrainedModel:
            section = self.section
            if folder is not None:  # it holds the whole trained model
                section = section.model_copy(update={"name_or_path": folder, "revision": None})
            return load_base_model(section, tokenizer, head)

        model = load_adapter(self.method).load(self.weights, load_base)
        self._require_trained(model)
        return model

    def _require_trained(self, model: PreTrainedModel) -> None:
        """Check that no trained part of the loaded model is random because a file lacks it."""
        require_every_tensor(model, self.weights, self.name, self.section.name_or_path)
        plain: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        # An adapter brings the head that its base lacks; embedding rows that were added to it must come from there too.
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
    """Where a trained model is, and the configuration that it was trained by."""

    weights: Path
    """Folder of the adapter or the whole model."""
    config: RunConfig
    label_names: tuple[str, ...]
    """Names in the order of the ids; empty for regression and language models."""
    name: str
    """What the user called it."""
    run: Path | None = None
    """The run's folder; None: the weights were made elsewhere."""

    @property
    def title(self) -> str:
        """Name it for a reader."""
        return f"{self.name} ({self.weights.name})"

    @property
    def generates(self) -> bool:
        """Whether it writes text, or answers with labels."""
        return load_task(self.config.task).GENERATES

    @property
    def judges(self) -> bool:
        """Whether it gives numbers to answers that others wrote."""
        return load_task(self.config.task).JUDGES

    @property
    def head(self) -> HeadSpec | None:
        """The classifier's labels; None for a language model."""
        return load_task(self.config.task).build_head(self.label_names)

    @property
    def is_adapter(self) -> bool:
        """Whether the weights lie in peft's layout beside their base, or are a whole model."""
        return (self.weights / ADAPTER_CONFIG).is_file()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer that was saved with the weights; the base's where an adapter has none."""
        from utils.modeling.tokenizer import load_tokenizer

        own = any((self.weights / file).is_file() for file in ("tokenizer_config.json", "config.json"))
        if not own and self.run is not None:
            logger.warning("%s holds no tokenizer; that of %s is taken", self.weights, self.config.model.name_or_path)
        with self._explained():
            return load_tokenizer(self.config.model, str(self.weights) if own else None)

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load the model as it was trained, and its tokenizer; see `load_model`."""
        tokenizer = self.load_tokenizer()
        return self.load_model(tokenizer), tokenizer

    def load_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Load the model as it was trained, on a quantized base where it was.

        Raises:
            ModelError: A file is damaged, or does not fit the base; the base has changed since.
        """
        with self._explained():
            if self.is_adapter:
                require_unchanged_base(self.run, self.config.model, self.name)
            saved = _Saved(self.weights, self.config.model, self.config.peft.method, self.name, self.run)
            return saved.load(tokenizer, self.head)

    def load_unquantized(self, tokenizer: PreTrainedTokenizerBase, dtype: str) -> PreTrainedModel:
        """Put the adapter on the freshly loaded, unquantized base; a merge into a packed weight would be garbage.

        `dtype` is one of `model.dtype`; `auto` is what the run's base is stored in, bfloat16 where it was quantized.

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
        """Give the same model on another base, or loaded otherwise."""
        return replace(self, config=replace(self.config, model=section))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what is wrong with the folder's files into a sentence."""
        model = self.config.model
        with explain_damage(self.name, model.name_or_path):
            require_adapter_file(self.weights, self.name, self.config.peft.peft_type, model.allow_pickle)
            yield


@dataclass(frozen=True)
class PublishedModel:
    """A model without run: a hub name or a folder, alone or with an adapter that was made elsewhere."""

    name: str
    section: ModelSection
    generates: bool
    judges = False  # its rows would be texts: nothing says what a prompt is
    label_names: tuple[str, ...] = ()
    """The checkpoint's own, in the order of the ids; empty for regression and language models."""
    adapter: Path | None = None
    """The adapter's folder, in peft's layout."""
    method: str = "none"
    """The method that loads it."""
    config: ClassVar[None] = None
    run: ClassVar[None] = None

    @property
    def title(self) -> str:
        """Name it for a reader."""
        return self.name

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its own tokenizer: the adapter's, where that has one, else the base's."""
        from utils.modeling.tokenizer import load_tokenizer

        own = self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file()
        return load_tokenizer(self.section, str(self.adapter) if own else None)

    def load_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Load the model as it is; one whose head would be random is refused."""
        head = None if self.generates else build_head_spec(self.label_names)
        model, new = self.load_with_head(tokenizer, head)
        if new:
            raise ModelError(f"--model {self.name}: its checkpoint lacks {', '.join(new)}, which were random")
        return model

    def load_with_head(
        self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None
    ) -> tuple[PreTrainedModel, list[str]]:
        """Load the model with a head for some labels, and name the modules that its checkpoint lacks."""
        from utils.modeling.base_model import load_base_model

        if self.adapter is not None:
            with explain_damage(self.name, self.section.name_or_path):
                require_adapter_file(self.adapter, self.name, self.method, self.section.allow_pickle)
                return _Saved(self.adapter, self.section, self.method, self.name).load(tokenizer, head), []
        model = load_base_model(self.section, tokenizer, head)
        return model, list_new_modules(model)


ModelRef: TypeAlias = TrainedModel | PublishedModel


def _holds_rows(adapted: Any, weights: Path, rows: range) -> bool:
    """Tell whether an adapter brings these embedding rows with it: one by one, or the whole matrix."""
    for config in adapted.peft_config.values():
        indices = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None) or {}
        listed = indices.values() if isinstance(indices, dict) else [indices]
        if any(set(rows) <= set(each) for each in listed):
            return True
    plain = adapted.get_base_model()
    layer = plain.get_input_embeddings()
    name = next(path for path, part in plain.named_modules() if part is layer).rpartition(".")[2]
    return any(key.endswith(f".{name}.weight") for key in list_stored(weights) or ())
