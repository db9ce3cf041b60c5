"""Saving, loading and merging of adapters that peft knows: adapter_config.json and safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import AttachContext, LoadBase, keep_float32
from utils.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapter, and whatever is trained whole beside it, in peft's layout."""
    model.save_pretrained(folder, safe_serialization=True)


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Put a saved adapter on a freshly loaded base.

    Raises:
        ModelError: Its file lacks tensors.
    """
    from peft import PeftModel

    base = keep_unpacked(load_base(None))
    try:
        return keep_precision(PeftModel.from_pretrained(base, str(folder)))
    except (KeyError, ValueError) as error:  # what peft raises for a head, virtual tokens or shared matrices
        if isinstance(error, ValueError) and "state dictionary" not in str(error):
            raise
        raise ModelError(f"{folder}: the adapter's file lacks tensors ({error}); copy the folder again") from error


def wrap(model: PreTrainedModel, peft_config: Any, context: AttachContext, target_modules: Any) -> PreTrainedModel:
    """Attach an adapter by peft; of `target_modules`, as they are written, a complaint speaks.

    Raises:
        ModelError: No module matches, or one that matches cannot carry the adapter.
    """
    from peft import get_peft_model

    with explain_targets(model, target_modules):
        adapted: PreTrainedModel = keep_precision(get_peft_model(keep_unpacked(model), peft_config))
    keep_float32(adapted, context)
    return adapted


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add the update to the base weights; the base must be unquantized and freshly loaded.

    Raises:
        ModelError: It trained biases that the base has no place for.
    """
    _unwrap_whole_modules(model)
    try:
        return model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        if "has no bias" not in str(error):
            raise
        message = "the adapter trains biases of layers that have none in the base; use it on its base"
        raise ModelError(f"{message}, or train by lora") from error


def _unwrap_whole_modules(model: Any) -> None:
    """Put modules that were trained whole into their places: some tuners' own unloading knows single layers only."""
    from peft.utils import ModulesToSaveWrapper

    plain = model.get_base_model()
    for name, module in list(plain.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, last = name.rpartition(".")
            setattr(plain.get_submodule(parent), last, module.modules_to_save[module.active_adapters[0]])


def keep_unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """Keep packed weights as they are where bitsandbytes and peft would lose hold of them on a CPU.

    bitsandbytes re-packs 4-bit weights in the first evaluation, on some CPUs: no gradient passes a re-packed weight
    (an adapter would silently stop learning after its first evaluation), and merging into one reads garbage. Of 8-bit
    weights peft, unpacking one for DoRA on a CPU, makes a copy without its scales, which the next pass needs.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(_restore_scales)
    return model


def keep_precision(model: Any) -> Any:
    """Let packed layers with an adapter answer in the precision in which they are asked.

    peft's IA3 multiplies what a packed layer gives by float32 vectors and leaves the product float32, which a bfloat16
    norm, or attention with bfloat16 queries, refuses. The model is changed, and given back.
    """
    for module in model.modules():
        if type(module).__module__ == "peft.tuners.ia3.bnb":
            module.register_forward_hook(_answer_in_kind)
    return model


def _answer_in_kind(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.to(inputs[0].dtype)


def _restore_scales(module: Any, _: Any) -> None:
    """Give an 8-bit weight its scales back, which the layer's state still holds."""
    if module.weight.CB is not None and module.weight.SCB is None:
        module.weight.SCB = module.state.SCB


@contextmanager
def explain_targets(model: PreTrainedModel, target_modules: Any) -> Iterator[None]:
    """Turn peft's complaint about target modules into a sentence that names what the model has.

    Raises:
        ModelError: No module matches, or one that matches cannot carry the adapter.
    """
    try:
        yield
    except re.error as error:
        raise ModelError(f"peft: {error.pattern!r} is not a regular expression: {error.msg}") from error
    except (ValueError, TypeError) as error:
        if "qalora_group_size" in str(error):
            inputs, size = re.findall(r"\((\d+)\)", str(error))
            raise ModelError(f"peft.qalora_group_size: {size} does not divide a layer's {inputs} inputs") from error
        if found := re.search(r"ParamWrapper does not work with (\w+)", str(error)):
            raise ModelError(
                f"peft.{found[1]}: not on the experts of this model ({model.config.model_type}), which are no linear "
                "layers; leave it out, or name modules of attention in peft.target_modules, such as [q_proj, v_proj]"
            ) from error
        if not re.search("arget module|modules were|is incompatible", str(error)):
            raise
        if re.search(r"arget module (of type <class ')?[\w.]*Conv1D", str(error)):
            raise ModelError(
                f"peft.method: this model ({model.config.model_type}) is built of transformers' Conv1D layers, which "
                "peft cannot adapt by this method; use lora"
            ) from error
        names = ", ".join(_linear_names(model))
        raise ModelError(
            f"peft.target_modules: {target_modules} fits no layer that the method can adapt in this model "
            f"({model.config.model_type}); its linear layers are {names}; or use all-linear"
        ) from error


def _linear_names(model: PreTrainedModel) -> list[str]:
    from torch import nn

    return sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
