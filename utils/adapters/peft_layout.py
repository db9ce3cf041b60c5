"""Saving, loading and merging of adapters in peft's layout: adapter_config.json and safetensors."""

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
    """Save the adapter, and any modules trained in full, in peft's layout."""
    model.save_pretrained(folder, safe_serialization=True)


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load a saved adapter onto a freshly loaded base.

    Raises:
        ModelError: The adapter's file lacks tensors.
    """
    from peft import PeftModel

    base = preserve_quantized(load_base(None))
    try:
        return preserve_dtype(PeftModel.from_pretrained(base, str(folder)))
    except (KeyError, ValueError) as error:  # raised by peft for a missing head, virtual tokens or shared matrices
        if isinstance(error, ValueError) and "state dictionary" not in str(error):
            raise
        raise ModelError(f"{folder}: the adapter's file lacks tensors ({error}); copy the folder again") from error


def wrap(model: PreTrainedModel, peft_config: Any, context: AttachContext, target_modules: Any) -> PreTrainedModel:
    """Attach an adapter with peft; `target_modules`, as written, is for error messages.

    Raises:
        ModelError: No module matches, or a matching module cannot be adapted.
    """
    from peft import get_peft_model

    with explain_targets(model, target_modules):
        adapted: PreTrainedModel = preserve_dtype(get_peft_model(preserve_quantized(model), peft_config))
    keep_float32(adapted, context)
    return adapted


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Merge the update into the base weights; the base must be unquantized and freshly loaded.

    Raises:
        ModelError: The adapter trained biases that the base lacks.
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
    """Put modules trained in full back in place, since some tuners' own unloading handles only single layers."""
    from peft.utils import ModulesToSaveWrapper

    plain = model.get_base_model()
    for name, module in list(plain.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, last = name.rpartition(".")
            setattr(plain.get_submodule(parent), last, module.modules_to_save[module.active_adapters[0]])


def preserve_quantized(model: PreTrainedModel) -> PreTrainedModel:
    """Keep quantized weights intact where bitsandbytes or peft would break them on a CPU.

    On some CPUs, bitsandbytes repacks 4-bit weights in the first evaluation: a repacked weight passes no gradient (the
    adapter would silently stop learning after its first evaluation), and merging into it reads garbage. For DoRA, peft
    dequantizes an 8-bit weight on the CPU into a copy without its scales, which the next forward pass needs.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(_restore_scales)
    return model


def preserve_dtype(model: Any) -> Any:
    """Make quantized layers with an adapter return the dtype of their input, and return the modified model.

    peft's IA3 multiplies a quantized layer's output by float32 vectors and returns float32, which a bfloat16 norm, or
    attention with bfloat16 queries, rejects.
    """
    for module in model.modules():
        if type(module).__module__ == "peft.tuners.ia3.bnb":
            module.register_forward_hook(_cast_output)
    return model


def _cast_output(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.to(inputs[0].dtype)


def _restore_scales(module: Any, _: Any) -> None:
    """Restore an 8-bit weight's scales, which the layer's state still holds."""
    if module.weight.CB is not None and module.weight.SCB is None:
        module.weight.SCB = module.state.SCB


@contextmanager
def explain_targets(model: PreTrainedModel, target_modules: Any) -> Iterator[None]:
    """Turn peft's errors about target modules into a sentence that lists the model's layers.

    Raises:
        ModelError: No module matches, or a matching module cannot be adapted.
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
