"""Continuing training from a saved adapter (peft.adapter_path): its configuration and its weights."""

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
"""Fields with a different name in peft."""
_BY_TENSORS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform")
"""Layers can be selected in many equivalent ways, so the selection is compared by the adapter's tensors instead."""
_ADDED_BY_PEFT = ("classifier", "score")
"""Heads that peft adds to modules_to_save, whether the model has them or not."""
_IDLE = ("corda_config", "eva_config", "fan_in_fan_out", "init_lora_weights", "loftq_config", "lora_ga_config",
         "runtime_config", "trainable_token_indices")  # fmt: skip
"""Fields that only mattered when the adapter was created, or that attaching determines by itself."""
_NO_PROJECTION = "its keys and values are saved without the network that makes them; continue by --resume of its run"
_INERT_INITS = (True, False, "gaussian")


def read_adapter_config(section: AdapterSection) -> dict[str, Any]:
    """Read the adapter's configuration.

    Raises:
        UserError: There is no adapter in peft's layout.
    """
    folder = find_adapter(section)
    saved = load_object(folder / ADAPTER_CONFIG, "name a folder in peft's layout")
    if not isinstance(saved.get("peft_type"), str):
        raise UserError(f"{folder / ADAPTER_CONFIG} does not hold what it should; copy the folder again")
    return saved


def find_adapter(section: AdapterSection) -> Path:
    """Find the adapter's folder: the given one or, for a run, its final_model/."""
    named = Path(section.adapter_path or "").expanduser()
    inner = named / "final_model"
    return inner if not (named / ADAPTER_CONFIG).is_file() and (inner / ADAPTER_CONFIG).is_file() else named


def resolve_section(section: AdapterSection, saved: dict[str, Any]) -> AdapterSection:
    """Fill the keys that the file leaves out from the adapter's configuration."""
    taken: dict[str, Any] = {}
    for key, theirs in _shared_fields(section, saved):
        if key not in section.model_fields_set:
            taken[key] = _drop_peft_heads(theirs) if key == "modules_to_save" else theirs
    if "init_lora_weights" in type(section).model_fields:
        taken["init_lora_weights"] = True  # the weights are loaded
    values = {**section.model_dump(include=section.model_fields_set), **taken}
    resolved: AdapterSection = type(section).model_validate(values)
    return resolved


def find_adapter_conflicts(section: AdapterSection, task_type: str, saved: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield, by key, where the file's section and the adapter's configuration disagree, with both values."""
    folder = section.adapter_path
    if (kind := registry.normalize(saved["peft_type"])) != section.peft_type:
        yield "method", f"is {section.method}, and the adapter in {folder} is of {kind}; set it to {kind}"
        return
    reason = _NO_PROJECTION if saved.get("prefix_projection") else section.LIMITS.adapter_path
    if reason:
        yield "adapter_path", f"not with method: {section.method}; {reason}"
    if saved.get("task_type") in ("SEQ_CLS", "CAUSAL_LM") and saved["task_type"] != task_type:
        yield "adapter_path", f"the adapter in {folder} is for {saved['task_type']}, and the file for {task_type}"
    yield from _compare_fields(section, saved)
    for name, value in _find_unsupported(section, saved):
        yield "adapter_path", f"the adapter in {folder} has {name}: {value}, which cannot be trained on here"


def load_start(model: PreTrainedModel, section: AdapterSection, base: str, allow_pickle: bool) -> None:
    """Load the saved weights into a freshly attached adapter whose section is resolved.

    Raises:
        ModelError: The adapter's tensors do not match this model's, or its file is pickled without `allow_pickle`.
    """
    from peft import set_peft_model_state_dict
    from peft.utils import load_peft_weights

    folder, name = find_adapter(section), f"peft.adapter_path: {section.adapter_path}"
    with explain_damage(name, base):
        require_adapter_file(folder, name, section.peft_type, allow_pickle)
        require_every_tensor(model, folder, name, f"{base} with this peft: section")
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))


def describe_start(section: AdapterSection) -> dict[str, Any] | None:
    """Return, for the run's record, the path and hash of the weights that training continues from, or None."""
    if section.adapter_path is None:
        return None
    folder = find_adapter(section)
    files = sorted(folder.glob("adapter_model.*"))
    if not files:
        raise ModelError(f"peft.adapter_path: {folder} has no weights any more; they have to be recorded")
    return {"path": str(folder), "sha256": hashlib.sha256(files[-1].read_bytes()).hexdigest()}


def _compare_fields(section: AdapterSection, saved: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, theirs in _shared_fields(section, saved):
        ours = getattr(section, key)
        free = key in _BY_TENSORS or "dropout" in key
        if key in section.model_fields_set and not free and (ours or None) != (theirs or None):
            found = f"the adapter in {section.adapter_path} has {theirs}"
            yield key, f"is {ours}, and {found}; leave the key out, or write the same"
    init = getattr(section, "init_lora_weights", True)
    if init not in _INERT_INITS:
        yield "init_lora_weights", f"{init} is not beside adapter_path, whose weights are where training begins"


def _shared_fields(section: AdapterSection, saved: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the section's fields that the adapter's configuration has too, with the adapter's values."""
    for key in type(section).model_fields:
        name = _PEFT_NAMES.get(key, key)
        if name in saved and key not in AdapterSection.model_fields and key not in _IDLE:
            yield key, saved[name]


def _find_unsupported(section: AdapterSection, saved: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Find fields of a LoRA saved elsewhere that affect its computation and that our section lacks."""
    if registry.normalize(section.method) != "lora":
        return
    known = {_PEFT_NAMES.get(key, key) for key in type(section).model_fields} | set(AdapterSection.OWNED) | set(_IDLE)
    fields = read_fields("peft.tuners.lora.config", "LoraConfig")
    for name, value in saved.items():
        is_ours = name in known or name not in fields or value in (None, False, [], {})
        if not is_ours and not (fields[name].is_default_known and fields[name].default == value):
            yield name, value


def _drop_peft_heads(names: Any) -> Any:
    kept = [name for name in names or () if name not in _ADDED_BY_PEFT]
    return kept or None
