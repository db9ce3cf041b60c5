"""A saved adapter's files: whether they are whole, are what they are called, and fit their base."""

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
_OBJECTS = {ADAPTER_CONFIG: "peft_type", "config.json": "", "tokenizer.json": "model", "tokenizer_config.json": ""}
"""Files that hold an object, and a key that is always in it."""


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
    """Check that an adapter in peft's layout has its weights, which peft would ask the hub for, and its method.

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
    """Count the tensors that were saved from weights spread over processes, and check that all of them are there.

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
    """Check that every tensor of an adapter's file found its place and none is missing; peft drops them in silence.

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
