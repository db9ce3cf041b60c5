"""Sees to it that the files of a trained model are whole and fit its base: what is wrong with them is a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import ModelError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@contextmanager
def explain_damage(name: str, base: str = "the model") -> Iterator[None]:
    """Turn what damaged files raise while they are read into a sentence.

    Args:
        name: The folder, as the user named it.
        base: What its weights have to fit.

    Raises:
        ModelError: A file is cut off, is no JSON, or holds tensors of other shapes than the model.
        UserError: A file cannot be opened.
    """
    from safetensors import SafetensorError

    again = "it was cut off or edited; copy the folder again"
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{name}: holds a file that is not JSON ({error}); {again}") from None
    except SafetensorError as error:
        raise ModelError(f"{name}: its weights cannot be read ({error}); {again}") from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        if not lines:
            raise
        raise ModelError(f"{name}: the weights do not fit {base}: {lines[0]}") from None
    except OSError as error:
        if error.strerror is None:
            raise
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


def require_adapter_file(folder: Path, name: str) -> None:
    """See to it that an adapter in peft's layout has its weights; peft would ask the hub for them.

    Raises:
        ModelError: It has none.
    """
    if (folder / ADAPTER_CONFIG).is_file() and not any((folder / each).is_file() for each in _WEIGHTS):
        raise ModelError(f"{name}: {folder} holds {ADAPTER_CONFIG} and no {_WEIGHTS[0]}; copy the folder again")


def require_every_tensor(model: PreTrainedModel, folder: Path, name: str, base: str) -> None:
    """See to it that every tensor of an adapter's file found its place, and none is missing: peft drops them.

    Args:
        model: The adapter on its base.
        folder: Where it was loaded from; other layouts than peft's are not looked at.
        name: The folder, as the user named it.
        base: The base's name.

    Raises:
        ModelError: Some did not.
    """
    file = folder / _WEIGHTS[0]
    if not file.is_file() or not hasattr(model, "peft_config"):
        return
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        stored = set(tensors.keys())
    missing = set(get_peft_model_state_dict(model, save_embedding_layers=False)) - stored
    idle = stored - set(get_peft_model_state_dict(model, save_embedding_layers=True))
    for names, what in ((missing, "lacks"), (idle, "holds, without a place in the model,")):
        if names:
            raise ModelError(
                f"{name}: the adapter does not fit {base}: it {what} {len(names)} tensors such as {min(names)}"
            )
