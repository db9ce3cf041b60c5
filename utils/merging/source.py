"""What is merged: the adapter of a run, or one made elsewhere in peft's layout, and how each is put on its base."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import load_adapter
from utils.adapters.trained_files import ADAPTER_CONFIG, explain_damage, require_adapter_file
from utils.config.run_config import RunConfig, find_differences
from utils.core.errors import UserError
from utils.merging.output import REPORT_FILE
from utils.modeling.consent import NO_CONSENT, Consent
from utils.modeling.quantization import load_model_config, read_format
from utils.run_config import load_run_config
from utils.runs.inputs import require_unchanged_base
from utils.runs.reading import TrainedModel, read_run_folder, read_with_config
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.modeling.labels import HeadSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeSource:
    """An adapter, its configuration, and where what belongs to it lies."""

    name: str
    """As the user named it."""
    trained: TrainedModel

    @property
    def weights(self) -> Path:
        """Folder of the adapter."""
        return self.trained.weights

    @property
    def run(self) -> Path | None:
        """The run's folder; None for an adapter that was made elsewhere."""
        return self.trained.run

    @property
    def config(self) -> RunConfig:
        """The configuration of its training."""
        return self.trained.config

    @property
    def head(self) -> HeadSpec | None:
        """The classifier's labels; None for a language model."""
        return load_task(self.config.task).build_head(self.trained.label_names)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the adapter's tokenizer; the base's where the adapter has none."""
        from utils.modeling.tokenizer import load_tokenizer

        own = (self.weights / "tokenizer_config.json").is_file()
        return load_tokenizer(self.config.model, str(self.weights) if own else None)

    def load_as_trained(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Put the adapter on the base as it was in training, quantized where it was."""
        return self._load(self.config, tokenizer)

    def load_unquantized(self, tokenizer: PreTrainedTokenizerBase, dtype: str) -> PreTrainedModel:
        """Put the adapter on the freshly loaded, unquantized base; a merge into a packed weight would be garbage.

        Args:
            tokenizer: From `load_tokenizer`.
            dtype: As in `model.dtype`; `auto`: what the run's base is stored in, bfloat16 where it was quantized.

        Raises:
            UserError: The base itself is a quantized checkpoint.
        """
        model = self.config.model
        self._require_unpacked()
        if dtype == "auto":
            dtype = model.dtype if model.quantization is None else "bfloat16"
        plain: dict[str, Any] = {"quantization": None, "device_map": None, "attn_implementation": "sdpa"}
        return self._load(replace(self.config, model=model.model_copy(update={**plain, "dtype": dtype})), tokenizer)

    def _require_unpacked(self) -> None:
        """Refuse a base whose very files are packed: added to rounded weights, the update would be rounded as well."""
        model = self.config.model
        if stored := read_format(load_model_config(model)):
            raise UserError(
                f"{self.name}: its base {model.name_or_path} is stored as {stored}, so there is no unquantized base to "
                "merge into; use the adapter on that base, or put it on the checkpoint that the base was made from: "
                "--config with that model.name_or_path, and --adapter_path"
            )

    def _load(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        from utils.modeling.base_model import load_base_model

        with explain_damage(self.name, config.model.name_or_path):
            require_adapter_file(self.weights, self.name, config.peft.peft_type, config.model.allow_pickle)
            require_unchanged_base(self.run, config.model, self.name)
            model = load_adapter(config.peft.method).load(
                self.weights, lambda _: load_base_model(config.model, tokenizer, self.head)
            )
            self.trained.require_trained(model)
        return model


def open_run(name: str, consent: Consent = NO_CONSENT) -> MergeSource:
    """Open a run for merging; nothing heavy is imported.

    Args:
        name: A run folder, its final_model/ or any of its checkpoints.
        consent: What of it may run.

    Raises:
        UserError: It is none of these, or its method leaves nothing to merge.
    """
    with explain_damage(name):
        if (Path(name).expanduser() / REPORT_FILE).is_file():
            raise UserError(f"--run {name}: is a merged model already ({REPORT_FILE}); there is no adapter in it")
        trained = read_run_folder(name, consent)
    _require_mergeable(trained.config, f"--run {name}")
    if not (trained.weights / ADAPTER_CONFIG).is_file():
        raise UserError(f"--run {name}: {trained.weights} holds no {ADAPTER_CONFIG}, so there is no adapter to merge")
    return MergeSource(name, trained)


def open_adapter_folder(config_file: str, adapter_path: str, consent: Consent = NO_CONSENT) -> MergeSource:
    """Open an adapter that was made elsewhere; nothing heavy is imported.

    Args:
        config_file: YAML file that names its base, task and labels.
        adapter_path: A folder in peft's layout, or one with such a final_model/ in it.
        consent: What of it may run, beside what the file allows.

    Raises:
        UserError: There is no such adapter, it is of another method, or its classes are not known.
    """
    given = load_run_config(config_file, files=False)
    with explain_damage(adapter_path):
        trained = read_with_config(given, adapter_path, consent)
    _require_mergeable(trained.config, f"--config {config_file}")
    if not (trained.weights / ADAPTER_CONFIG).is_file():
        raise UserError(f"--adapter_path {adapter_path}: holds no {ADAPTER_CONFIG}; name a folder in peft's layout")
    if trained.run is not None and find_differences(trained.config.to_dict(), given.to_dict()):
        logger.warning(
            "%s is merged by its own run.yaml; what %s says otherwise has no effect", adapter_path, config_file
        )
    return MergeSource(adapter_path, trained)


def _require_mergeable(config: RunConfig, option: str) -> None:
    if sentence := config.peft.LIMITS.merge:
        raise UserError(f"{option}: peft.method {config.peft.method}: {sentence}")
