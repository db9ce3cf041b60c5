"""A saved adapter: whether its files are whole and fit their base, and training on from one (peft.adapter_path)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.installed import read_fields
from utils.config.sections.peft import AdapterSection
from utils.core import registry
from utils.core.errors import CheckError, ModelError, UserError
from utils.core.json_files import AGAIN, load_object
from utils.core.library_errors import explain_library, require_readable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_OBJECTS = {ADAPTER_CONFIG: "peft_type", "config.json": "", "tokenizer.json": "model", "tokenizer_config.json": ""}
"""Files that hold an object, and a key that is always in it."""
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


@contextmanager
def explain_damage(name: str, base: str = "the model") -> Iterator[None]:
    """Turn what damaged files raise while they are read into a sentence about `name`, the folder as the user named it.

    Raises:
        ModelError: A file is cut off, is no JSON, or holds tensors of other shapes than `base`.
        UserError: A file cannot be opened.
    """
    from safetensors import SafetensorError

    try:
        with explain_library(lambda line: ModelError(f"{name}: cannot be used on {base} ({line}); {AGAIN}")):
            yield
    except ModelError as error:
        mismatch = re.search("size mismatch.*", str(error.__cause__))
        if mismatch:
            raise ModelError(f"{name}: the weights do not fit {base}: {mismatch[0]}") from None
        if isinstance(error.__cause__, SafetensorError):
            raise ModelError(f"{name}: its weights cannot be read ({error.__cause__}); {AGAIN}") from None
        raise
    except OSError as error:
        if error.strerror is None:
            raise
        raise UserError(f"{error.filename or name}: cannot be read: {error.strerror}") from None


def require_adapter_file(folder: Path, name: str, method: str, allow_pickle: bool = False) -> None:
    """See to it that an adapter in peft's layout has its weights, which peft would ask the hub for, and its method.

    peft builds whatever the folder says, other models included. `name` is the folder as the user named it;
    `allow_pickle` lets the weights be a pickled file, which can hold code.

    Raises:
        ModelError: It has none, or only pickled ones, is of another method, or a file beside them is not what it is
            called.
    """
    require_readable(folder)
    for file, key in _OBJECTS.items():
        if (folder / file).is_file():
            held = load_object(folder / file, error=ModelError)
            if key and key not in held:
                raise ModelError(f"{name}: {folder / file} does not hold what it should; {AGAIN}")
            if key == "peft_type" and registry.normalize(str(held[key])) != registry.normalize(method):
                raise ModelError(f"{name}: {folder / file} is of peft_type {held[key]}, and the run of {method}")
    safe, pickled = ((folder / each).is_file() for each in _WEIGHTS)
    if not (folder / ADAPTER_CONFIG).is_file() or safe:
        return
    if not pickled:
        raise ModelError(f"{name}: {folder} holds {ADAPTER_CONFIG} and no {_WEIGHTS[0]}; copy the folder again")
    if not allow_pickle:
        raise ModelError(
            f"{name}: the adapter's weights are pickled ({_WEIGHTS[1]}), and such a file can run code; save it anew "
            "with save_pretrained, or, if you trust its author, set model.allow_pickle: true (or give --allow_pickle)"
        )


def require_whole_tensors(folder: Path) -> int:
    """Count the tensors that were saved from weights spread over processes, and see to it that all of them are there.

    Raises:
        CheckError: There is no safetensors file, or one of its tensors is empty.
    """
    from safetensors import safe_open

    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  it is no mapping
                if 0 in tensors.get_slice(key).get_shape():
                    raise CheckError(
                        f"{file}: the tensor {key} is empty: the weights of the other processes are not in"
                    )
                count += 1
    if not count:
        raise CheckError(
            f"{folder}: no weights were saved; with FSDP set fsdp_state_dict_type: FULL_STATE_DICT, with ZeRO-3 "
            "stage3_gather_16bit_weights_on_model_save: true"
        )
    return count


def require_every_tensor(model: PreTrainedModel, folder: Path, name: str, base: str) -> None:
    """See to it that every tensor of an adapter's file found its place, and none is missing: peft drops them.

    Other layouts than peft's are not looked at. `name` and `base` are the user's names of the folder and the base.

    Raises:
        ModelError: Some did not.
    """
    stored = list_stored(folder)
    if stored is None or not hasattr(model, "peft_config"):
        return
    from peft import get_peft_model_state_dict

    # peft saves embeddings where it finds it worth it: they may be in the file, and need not be.
    missing = set(get_peft_model_state_dict(model, save_embedding_layers=False)) - stored
    idle = stored - set(get_peft_model_state_dict(model, save_embedding_layers=True))
    for names, what in ((missing, "lacks"), (idle, "holds, without a place in the model,")):
        if names:
            raise ModelError(
                f"{name}: the adapter does not fit {base}: it {what} {len(names)} tensors such as {min(names)}"
            )


def list_stored(folder: Path) -> set[str] | None:
    """Name the tensors of an adapter's file; None where there is none."""
    safe, pickled = (folder / each for each in _WEIGHTS)
    if safe.is_file():
        from safetensors import safe_open

        with safe_open(safe, "pt") as tensors:
            return set(tensors.keys())
    if pickled.is_file():  # allowed by the user, as `require_adapter_file` has seen to
        from peft.utils import load_peft_weights

        return set(load_peft_weights(str(folder), device="cpu"))
    return None


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


def settle_section(section: AdapterSection, made: dict[str, Any]) -> AdapterSection:
    """Take from the adapter's own configuration what the file, which does not contradict it, leaves out."""
    taken: dict[str, Any] = {}
    for key, theirs in _shared_fields(section, made):
        if key not in section.model_fields_set:
            taken[key] = _without_added(theirs) if key == "modules_to_save" else theirs
    if "init_lora_weights" in type(section).model_fields:
        taken["init_lora_weights"] = True  # the weights are given
    values = {**section.model_dump(include=section.model_fields_set), **taken}
    settled: AdapterSection = type(section).model_validate(values)
    return settled


def find_contradictions(section: AdapterSection, task_type: str, made: dict[str, Any]) -> Iterator[tuple[str, str]]:
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
    """Give a freshly attached adapter, whose section is settled, the weights that are trained on from.

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
