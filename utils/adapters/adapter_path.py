"""Training on from a saved adapter (peft.adapter_path): what it says of itself beside the file, and its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.saved_adapter import ADAPTER_CONFIG, explain_damage, require_adapter_file, require_every_tensor
from utils.config.installed import read_fields
from utils.config.sections.peft import AdapterSection
from utils.core import registry
from utils.core.errors import ModelError, UserError
from utils.core.json_files import load_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PEFT_NAMES = {"lora_r": "r"}
"""Fields with another name in peft."""
_BY_TENSORS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform")
"""What chooses layers can be written in many ways: whether it chooses the adapter's is told by its tensors."""
_ADDED_BY_PEFT = ("classifier", "score")
"""Names of heads that peft puts among modules_to_save, whether the model has them or not."""
_IDLE = ("corda_config", "eva_config", "fan_in_fan_out", "init_lora_weights", "loftq_config", "lora_ga_config",
         "runtime_config", "trainable_token_indices")  # fmt: skip
"""Fields that were needed when the adapter began, or that attaching finds out itself."""
_NOT_MADE_AGAIN = "its keys and values are saved without the network that makes them; train on by --resume of its run"
_INITS_OF_NO_EFFECT = (True, False, "gaussian")


def read_adapter_config(section: AdapterSection) -> dict[str, Any]:
    """Read what the adapter says of itself.

    Raises:
        UserError: There is no adapter in peft's layout.
    """
    folder = find_adapter(section)
    made = load_object(folder / ADAPTER_CONFIG, "name a folder in peft's layout")
    if not isinstance(made.get("peft_type"), str):
        raise UserError(f"{folder / ADAPTER_CONFIG} does not hold what it should; copy the folder again")
    return made


def find_adapter(section: AdapterSection) -> Path:
    """Find the adapter's folder: the one that is named, or its final_model/ where that is a run."""
    named = Path(section.adapter_path or "").expanduser()
    inner = named / "final_model"
    return inner if not (named / ADAPTER_CONFIG).is_file() and (inner / ADAPTER_CONFIG).is_file() else named


def resolve_section(section: AdapterSection, made: dict[str, Any]) -> AdapterSection:
    """Take from the adapter's own configuration what the file, which does not contradict it, leaves out."""
    taken: dict[str, Any] = {}
    for key, theirs in _shared_fields(section, made):
        if key not in section.model_fields_set:
            taken[key] = _without_added(theirs) if key == "modules_to_save" else theirs
    if "init_lora_weights" in type(section).model_fields:
        taken["init_lora_weights"] = True  # the weights are given
    values = {**section.model_dump(include=section.model_fields_set), **taken}
    resolved: AdapterSection = type(section).model_validate(values)
    return resolved


def find_adapter_conflicts(section: AdapterSection, task_type: str, made: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Find where the file's section and the adapter's own configuration do not agree, by key, with both values."""
    folder = section.adapter_path
    if (kind := registry.normalize(made["peft_type"])) != section.peft_type:
        yield "method", f"is {section.method}, and the adapter in {folder} is of {kind}; set it to {kind}"
        return
    reason = _NOT_MADE_AGAIN if made.get("prefix_projection") else section.LIMITS.adapter_path
    if reason:
        yield "adapter_path", f"not with method: {section.method}; {reason}"
    if made.get("task_type") in ("SEQ_CLS", "CAUSAL_LM") and made["task_type"] != task_type:
        yield "adapter_path", f"the adapter in {folder} is for {made['task_type']}, and the file for {task_type}"
    yield from _compare_fields(section, made)
    for name, value in _find_foreign(section, made):
        yield "adapter_path", f"the adapter in {folder} has {name}: {value}, which cannot be trained on here"


def load_start(model: PreTrainedModel, section: AdapterSection, base: str, allow_pickle: bool) -> None:
    """Give a freshly attached adapter, whose section is resolved, the weights that are trained on from.

    Raises:
        ModelError: The adapter has other tensors than this model's, or its file is pickled without `allow_pickle`.
    """
    from peft import set_peft_model_state_dict
    from peft.utils import load_peft_weights

    folder, name = find_adapter(section), f"peft.adapter_path: {section.adapter_path}"
    with explain_damage(name, base):
        require_adapter_file(folder, name, section.peft_type, allow_pickle)
        require_every_tensor(model, folder, name, f"{base} with this peft: section")
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))


def describe_start(section: AdapterSection) -> dict[str, Any] | None:
    """Say for the record which weights were trained on from; None: from new ones."""
    if section.adapter_path is None:
        return None
    folder = find_adapter(section)
    files = sorted(folder.glob("adapter_model.*"))
    if not files:
        raise ModelError(f"peft.adapter_path: {folder} holds no weights any more; they are to be recorded")
    return {"path": str(folder), "sha256": hashlib.sha256(files[-1].read_bytes()).hexdigest()}


def _compare_fields(section: AdapterSection, made: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, theirs in _shared_fields(section, made):
        ours = getattr(section, key)
        free = key in _BY_TENSORS or "dropout" in key
        if key in section.model_fields_set and not free and (ours or None) != (theirs or None):
            found = f"the adapter in {section.adapter_path} has {theirs}"
            yield key, f"is {ours}, and {found}; leave the key out, or write the same"
    init = getattr(section, "init_lora_weights", True)
    if init not in _INITS_OF_NO_EFFECT:
        yield "init_lora_weights", f"{init} is not beside adapter_path, whose weights are where training begins"


def _shared_fields(section: AdapterSection, made: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give the section's fields that the adapter has too, with the adapter's values."""
    for key in type(section).model_fields:
        name = _PEFT_NAMES.get(key, key)
        if name in made and key not in AdapterSection.model_fields and key not in _IDLE:
            yield key, made[name]


def _find_foreign(section: AdapterSection, made: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Find fields of a LoRA of another's making that change what it computes, and that our section does not have."""
    if registry.normalize(section.method) != "lora":
        return
    known = {_PEFT_NAMES.get(key, key) for key in type(section).model_fields} | set(AdapterSection.OWNED) | set(_IDLE)
    fields = read_fields("peft.tuners.lora.config", "LoraConfig")
    for name, value in made.items():
        is_ours = name in known or name not in fields or value in (None, False, [], {})
        if not is_ours and not (fields[name].is_default_known and fields[name].default == value):
            yield name, value


def _without_added(names: Any) -> Any:
    kept = [name for name in names or () if name not in _ADDED_BY_PEFT]
    return kept or None
