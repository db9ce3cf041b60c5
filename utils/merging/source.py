"""Find the adapter and base to merge or convert, before heavy imports."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

from utils.adapters.saved_adapter import ADAPTER_CONFIG, explain_damage
from utils.config.run_config import RunConfig, find_differences
from utils.core.errors import UserError
from utils.merging.output import REPORT_FILE
from utils.modeling.base_identity import fingerprint_base
from utils.modeling.consent import NO_CONSENT, Consent
from utils.run_config import load_run_config
from utils.runs.hub import find_run_folder
from utils.runs.model_ref import TrainedModel
from utils.runs.open_model import MERGED_RUN, as_whole_model, open_merged, open_run, open_with_config
from utils.runs.probe_record import open_probe
from utils.tasks.probe import Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def open_adapter_run(
    name: str, consent: Consent = NO_CONSENT, as_lora: bool = False, may_be_whole: bool = False
) -> TrainedModel:
    """Open a run by its folder, its final_model/ or any of its checkpoints, without heavy imports.

    For merging, or with `as_lora` for converting. With `may_be_whole` it may be a merged model, or a run that trained
    the whole model, to be converted to another format.

    Raises:
        UserError: It is none of these, or its method has nothing to merge or convert.
    """
    with explain_damage(name):
        folder = find_run_folder(name)
        if may_be_whole and (folder / MERGED_RUN).is_file():
            return as_whole_model(open_merged(folder, consent))
        if (folder / REPORT_FILE).is_file():
            raise UserError(f"--run {name}: is a merged model already ({REPORT_FILE}); there is no adapter in it")
        trained = open_run(name, consent)
    if may_be_whole and trained.config.peft.method == "none" and not trained.is_adapter:
        return trained
    _require_able(trained.config, f"--run {name}", as_lora)
    if not trained.is_adapter:
        raise UserError(f"--run {name}: {trained.weights} holds no {ADAPTER_CONFIG}, so there is no adapter to merge")
    return trained


def open_adapter_folder(
    config_file: str, adapter_path: str, consent: Consent = NO_CONSENT, as_lora: bool = False
) -> TrainedModel:
    """Open an adapter in peft's layout that was made elsewhere, without heavy imports.

    The configuration file names its base, task and labels.

    Raises:
        UserError: There is no such adapter, it is of another method, or its classes are unknown.
    """
    given = load_run_config(config_file, files=False)
    with explain_damage(adapter_path):
        trained = open_with_config(given, adapter_path, consent)
    _require_able(trained.config, f"--config {config_file}", as_lora)
    if not trained.is_adapter:
        raise UserError(f"--adapter_path {adapter_path}: holds no {ADAPTER_CONFIG}; name a folder in peft's layout")
    if trained.run is not None and find_differences(trained.config.to_dict(), given.to_dict()):
        logger.warning(
            "%s is read with its own run.yaml; differing settings in %s have no effect", adapter_path, config_file
        )
    return trained


def _require_able(config: RunConfig, option: str, as_lora: bool) -> None:
    limits = config.peft.LIMITS
    if sentence := limits.as_lora if as_lora else limits.merge:
        raise UserError(f"{option}: peft.method {config.peft.method}: {sentence}")


def open_comparison(source: TrainedModel, tokenizer: PreTrainedTokenizerBase, num_eval: int) -> Probe:
    """Open the probe on whose rows models are compared.

    Raises:
        UserError: The rows have no tokens.
    """
    probe = open_probe(source, tokenizer, num_eval)
    if not probe.num_rows:
        raise UserError(f"{source.name}: no row of {probe.rows} has a token to compare models on")
    return probe


def name_dtype(model: PreTrainedModel) -> str:
    """Return the dtype of a model's weights, without `torch.`."""
    return str(model.dtype).removeprefix("torch.")


def release_memory() -> None:
    """Free the memory of models that are no longer referenced."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe_source(source: TrainedModel, commit: str | None) -> dict[str, Any]:
    """Describe the source for a report."""
    config = source.config
    return {
        "run": None if source.run is None else str(source.run),
        "weights": str(source.weights),
        "method": config.peft.method,
        "is_adapter": source.is_adapter,
        "task_type": config.task_type,
        "base": config.model.name_or_path,
        "base_commit": commit,
        "base_fingerprint": fingerprint_base(config.model),
    }
