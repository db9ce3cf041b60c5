"""Build a base with its adapter on the meta device: all shapes without weights, from config.json alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from utils.adapters.adapter import AttachContext, load_adapter
from utils.config.sections.model import ModelSection
from utils.config.sections.peft import AdapterSection
from utils.core.errors import ModelError
from utils.modeling.source import load_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION = "lora_ns_plan"
_ANY_STEPS = 1_000_000  # only affects when a schedule prunes, not the initial count of trained parameters


class _Attention(torch.autograd.Function):
    """Keeps what fused attention keeps for its backward pass: queries, keys, values, output, but no scores."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


def _attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[Any, None]:
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


def build_on_meta(
    section: ModelSection,
    peft: AdapterSection,
    task_type: str,
    num_labels: int | None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """Build a base with its adapter without weights.

    Of the base only config.json is read. `num_labels` is None for a language model. `dtype` is that of the weights for
    running a step without them; None: parameters are only counted.
    """
    config = load_config(section.model_copy(update={"trust_remote_code": False}))
    if num_labels is not None:
        config.num_labels = num_labels
    auto = AutoModelForCausalLM if num_labels is None else AutoModelForSequenceClassification
    own: dict[str, Any] = {}
    if dtype is not None:
        # Without a mask function: masks are built from values, which a meta tensor lacks.
        ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attend)
        own = {"dtype": dtype, "attn_implementation": _ATTENTION}
    context = AttachContext(task_type, num_labels is not None, seed=0, num_training_steps=_ANY_STEPS)
    adapter = load_adapter(peft.method)
    try:
        with torch.device("meta"):
            return adapter.attach(auto.from_config(config, trust_remote_code=False, **own), peft, context)
    except (NotImplementedError, RuntimeError, ModelError):  # the method reads weights: only the base is built on meta
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=False, **own)
        return adapter.attach(model, peft, context)


def move_to_fake_cpu(model: PreTrainedModel, mode: FakeTensorMode) -> None:
    """Make meta tensors claim to be on a CPU: autocast does not support the meta device.

    The model cannot be built under the mode itself, where modules cannot change their dtype.
    """
    moved: dict[int, Any] = {}  # tied weights stay tied
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, each in held.items():
                if each is None:
                    continue
                if id(each) not in moved:
                    fake = FakeTensor(mode, each.detach().to("meta"), torch.device("cpu"))
                    is_parameter = isinstance(each, nn.Parameter)
                    moved[id(each)] = nn.Parameter(fake, each.requires_grad) if is_parameter else fake
                held[name] = moved[id(each)]
