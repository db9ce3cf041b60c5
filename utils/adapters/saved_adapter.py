"""Checks that a saved adapter's files are complete, have the expected content, and fit their base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core import registry
from utils.core.errors import CheckError, ModelError, UserError
from utils.core.json_files import AGAIN, load_object
from utils.core.library_errors import explain_library, require_readable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_WHOLE = ("I8", "I1", "I3", "I6", "U8", "U1", "U3", "U6", "BO")
"""How the names of safetensors' types of whole numbers and truth values begin."""
_OBJECTS = {ADAPTER_CONFIG: "peft_type", "config.json": "", "tokenizer.json": "model", "tokenizer_config.json": ""}
"""Files that hold a JSON object, and a key that it always has."""


@contextmanager
def explain_damage(name: str, base: str = "the model") -> Iterator[None]:
    """Turn errors from reading damaged files into a sentence about `name`, the folder as the user named it.

    Raises:
        ModelError: A file is cut off, is not JSON, or holds tensors whose shapes do not fit `base`.
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
    """Check an adapter's method, and that its weights exist, since peft would otherwise request them from the hub.

    peft builds whatever adapter_config.json says, including other methods. `name` is the folder as the user named it;
    `allow_pickle` accepts weights in a pickled file, which can contain code.

    Raises:
        ModelError: The weights are missing or only pickled, the method is another one, or another file has
            unexpected content.
    """
    require_readable(folder)
    _require_expected_content(folder, name, method)
    safe, pickled = ((folder / each).is_file() for each in _WEIGHTS)
    if not (folder / ADAPTER_CONFIG).is_file() or safe:
        return
    if not pickled:
        raise ModelError(f"{name}: {folder} holds {ADAPTER_CONFIG} and no {_WEIGHTS[0]}; copy the folder again")
    if not allow_pickle:
        raise ModelError(
            f"{name}: the adapter's weights are pickled ({_WEIGHTS[1]}), and such a file can run code; save it again "
            "with save_pretrained, or, if you trust its author, set model.allow_pickle: true (or give --allow_pickle)"
        )


def _require_expected_content(folder: Path, name: str, method: str) -> None:
    for file, key in _OBJECTS.items():
        if (folder / file).is_file():
            held = load_object(folder / file, error=ModelError)
            if key and key not in held:
                raise ModelError(f"{name}: {folder / file} does not hold what it should; {AGAIN}")
            if file == ADAPTER_CONFIG and held.get("alora_invocation_tokens"):
                raise ModelError(f"{name}: an activated LoRA (alora_invocation_tokens) is not supported")
            if key == "peft_type" and registry.normalize(str(held[key])) != registry.normalize(method):
                raise ModelError(f"{name}: {folder / file} is of peft_type {held[key]}, and the run of {method}")


def require_whole_tensors(folder: Path) -> int:
    """Count the tensors saved from weights sharded over processes, checking that all of them are complete.

    Raises:
        CheckError: There is no safetensors file, or one of its tensors is empty.
    """
    from safetensors import safe_open

    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  not a mapping
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
    """Check that an adapter's file and the model have the same tensors; peft ignores differences silently.

    Only peft's layout is checked. `name` and `base` are the user's names for the folder and the base.

    Raises:
        ModelError: Tensors are missing, have no place in the model, or have values that are not finite.
    """
    stored = list_stored(folder)
    if stored is None or not hasattr(model, "peft_config"):
        return
    from peft import get_peft_model_state_dict

    # peft decides case by case whether it saves embeddings: they may or may not be in the file.
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing = set(held) - stored
    idle = stored - set(get_peft_model_state_dict(model, save_embedding_layers=True))
    for names, what in ((missing, "lacks"), (idle, "holds, without a place in the model,")):
        if names:
            raise ModelError(
                f"{name}: the adapter does not fit {base}: it {what} {len(names)} tensors such as {min(names)}"
            )
    if wrong := [key for key in _list_whole_numbers(folder) if key in held and held[key].is_floating_point()]:
        raise ModelError(
            f"{name}: {len(wrong)} tensors such as {min(wrong)} are stored as whole numbers, not as weights; copy the "
            "folder again"
        )
    if broken := [key for key, value in held.items() if not value.isfinite().all()]:
        raise ModelError(
            f"{name}: {len(broken)} tensors such as {min(broken)} have values that are not finite: its training has "
            "diverged; train again with a lower learning_rate"
        )


def _list_whole_numbers(folder: Path) -> list[str]:
    """Return the tensors that an adapter's file stores as whole numbers or truth values; peft would convert them."""
    if not (file := folder / _WEIGHTS[0]).is_file():
        return []
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return [key for key in tensors.keys() if tensors.get_slice(key).get_dtype()[:2] in _WHOLE]  # noqa: SIM118  no mapping


def list_stored(folder: Path) -> set[str] | None:
    """Return the names of the tensors in an adapter's file, or None if there is none."""
    safe, pickled = (folder / each for each in _WEIGHTS)
    if safe.is_file():
        from safetensors import safe_open

        with safe_open(safe, "pt") as tensors:
            return set(tensors.keys())
    if pickled.is_file():  # allowed by the user: `require_adapter_file` has checked it
        from peft.utils import load_peft_weights

        return set(load_peft_weights(str(folder), device="cpu"))
    return None
