"""The memory of training, by part: weights, adapter, gradients, optimizer, and the tensors of a step.

The tensors of a step are not estimated by formulas: the step itself, forward and backward, runs on tensors with shapes
but no content, and the bytes alive at the same time are summed. This is exact for any architecture and method, except
for the workspace of kernels and the unused memory of the allocator.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_outputs import CausalLMOutput

from utils.modeling.sizes import count_parameters
from utils.modeling.source import read_model_config
from utils.runs.meta_model import build_on_meta, move_to_fake_cpu
from utils.trainer.chunked_cross_entropy import ChunkedCrossEntropy, LossSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from utils.config.run_config import RunConfig
    from utils.modeling.sizes import ParameterCounts

_STATES = {"sgd": 0, "adafactor": 0, "rmsprop": 1, "lion": 1, "adagrad": 1, "muon": 1, "ademamix": 3}
"""Numbers that the optimizer keeps per trained one, by the start of its name; two for Adam and its variants."""
_BLOCK = 64  # elements of a 4-bit weight per scale; with double_quant scales have 8 bits, in blocks of 256


@dataclass(frozen=True)
class Memory:
    """Bytes by part."""

    weights: int
    """The frozen base as it is stored, and the trained weights."""
    gradients: int
    optimizer: int
    step: int
    """Maximum of a step's other tensors: activations, chunks of logits, dequantized 4-bit weights."""

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, each.name) for each in fields(self))


class LiveBytes(TorchDispatchMode):
    """Sums the storages that are alive, and keeps the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its new storages."""
        given = {id(each.untyped_storage()) for each in _find_tensors((args, kwargs or {}))}
        result = func(*args, **(kwargs or {}))
        for tensor in _find_tensors(result):
            storage = tensor.untyped_storage()
            if id(storage) in self._known | given:
                continue
            self._known.add(id(storage))
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.now -= num_bytes


def _find_tensors(tree: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [each for each in leaves if isinstance(each, torch.Tensor)]


def plan_memory(config: RunConfig, num_labels: int | None, batch: tuple[int, int]) -> tuple[ParameterCounts, Memory]:
    """Count the parameters of a run, and the memory of its training.

    `num_labels` is None for a language model; `batch` is the number of rows of the longest batch, and the tokens of
    each.
    """
    dtype, autocast = _choose_dtypes(config)
    model = build_on_meta(config.model, config.peft, config.task_type, num_labels, dtype)
    if config.arguments.get("gradient_checkpointing"):
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(config.arguments.get("gradient_checkpointing_kwargs"))
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = 0  # the tokenizer's in a run
    model.train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # CPU tensors with shapes and no content
        move_to_fake_cpu(model, mode)
        is_summed = int(config.arguments.get("gradient_accumulation_steps") or 1) > 1
        step = measure_step(model, num_labels is None, batch, autocast, is_summed)
    counts = count_parameters(model)
    trained = [each for each in model.parameters() if each.requires_grad]
    trained_bytes = sum(each.numel() * each.element_size() for each in trained)
    packed, largest = _count_packed(config, model)
    frozen = sum(each.numel() * each.element_size() for each in model.parameters() if not each.requires_grad)
    name = str(config.arguments.get("optim", "adamw_torch"))
    return counts, Memory(
        weights=frozen - packed + trained_bytes,
        gradients=trained_bytes,
        optimizer=count_states(name) * (sum(each.numel() for each in trained) if "8bit" in name else trained_bytes),
        step=step + largest,
    )


def count_states(optim: str) -> int:
    """Return how many numbers an optimizer keeps for each trained one."""
    name = optim.removeprefix("paged_")
    return next((number for start, number in _STATES.items() if name.startswith(start)), 2)


def measure_step(
    model: PreTrainedModel, writes: bool, batch: tuple[int, int], dtype: torch.dtype | None, is_summed: bool
) -> int:
    """Run a step without content, and return the maximum of its bytes besides parameters and gradients.

    Gradients replace activations as they are computed; both exist in full only with gradient accumulation.

    `model` comes from `build_on_meta`, under the mode that is still active. `dtype` is that of autocast; None: without
    it. With `is_summed`, gradients of an earlier batch exist already.
    """
    trained = [each for each in model.parameters() if each.requires_grad]
    for each in trained:
        each.grad = torch.zeros_like(each) if is_summed else None
    ids = torch.zeros(batch, dtype=torch.long)
    live = LiveBytes()
    with live:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = _write_loss(model, ids) if writes else model(input_ids=ids).logits.float().sum()
        loss.backward()
    return live.peak if is_summed else max(0, live.peak - sum(each.numel() * each.element_size() for each in trained))


def _write_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Compute the loss of a language model in chunks, as the trainer does, at every position."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    head, body = plain.get_output_embeddings(), plain.base_model
    plain.forward = lambda *args, **kwargs: CausalLMOutput(logits=body(*args, **{**kwargs, "use_cache": False})[0])
    states = model(input_ids=ids).logits.flatten(0, 1)
    targets = torch.zeros(len(states), dtype=torch.long)
    loss: torch.Tensor = ChunkedCrossEntropy.apply(
        states.to(head.weight.dtype), head.weight, None, targets, LossSpec()
    )[0]
    return loss


def _choose_dtypes(config: RunConfig) -> tuple[torch.dtype, torch.dtype | None]:
    """Choose the dtype of the weights (dequantized, if they are quantized), and that of autocast."""
    section, arguments = config.model, config.arguments
    named = (read_model_config(section) or {}) if section.dtype == "auto" else {"dtype": section.dtype}
    if section.quantization is not None and section.quantization.bits == 4:
        named = {"dtype": section.quantization.compute_dtype}
    autocast = torch.bfloat16 if arguments.get("bf16") else torch.float16 if arguments.get("fp16") else None
    return getattr(torch, str(named.get("dtype") or named.get("torch_dtype") or "float32")), autocast


def _count_packed(config: RunConfig, model: PreTrainedModel) -> tuple[int, int]:
    """Count the bytes that bitsandbytes saves on the frozen linear layers, and those of the largest one dequantized."""
    quantization = config.model.quantization
    if quantization is None:
        return 0, 0
    scale = 4 / _BLOCK if not quantization.double_quant else 1 / _BLOCK + 4 / _BLOCK / 256
    per_element = 0.5 + scale if quantization.bits == 4 else 1.0
    head = (model.get_base_model() if hasattr(model, "get_base_model") else model).get_output_embeddings()
    layers = [each for each in model.modules() if isinstance(each, nn.Linear) and each is not head]
    frozen = [each.weight for each in layers if not each.weight.requires_grad]
    saved = sum(each.numel() * (each.element_size() - per_element) for each in frozen)
    return int(saved), max((each.numel() * each.element_size() for each in frozen), default=0)
