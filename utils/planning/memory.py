"""The memory that training takes, by part: weights, adapter, gradients, optimizer, and what a step holds.

What a step holds is not put together from formulas: the step itself, forward and backward, is run on tensors that have
shapes and no content, and what is alive at once is summed. It is exact for the tensors of any
architecture and method, and knows nothing of what a kernel needs for itself or of what an allocator leaves unused.
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

_STATES = {"sgd": 0, "adafactor": 0, "rmsprop": 1, "lion": 1, "adagrad": 1, "muon": 1}
"""Numbers that the optimizer keeps of each trained one, by the beginning of its name; Adam and its like: two."""
_BLOCK = 64  # elements of a 4-bit weight that share a scale; with double_quant the scales have 8 bits and blocks of 256


@dataclass(frozen=True)
class Memory:
    """Bytes by part."""

    weights: int
    """The frozen base as it is stored, and what is trained."""
    gradients: int
    optimizer: int
    step: int
    """The most that a step holds beside these: activations, chunks of logits, unpacked 4-bit weights."""

    @property
    def total(self) -> int:
        """All parts."""
        return sum(getattr(self, each.name) for each in fields(self))


class LiveBytes(TorchDispatchMode):
    """Sums the storages that are alive, and keeps the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages that are new."""
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

    Args:
        config: The run.
        num_labels: Outputs of the new head; None: a language model.
        batch: Rows of the longest batch, and tokens of each.
    """
    dtype, autocast = _choose_dtypes(config)
    model = build_on_meta(config.model, config.peft, config.task_type, num_labels, dtype)
    if config.arguments.get("gradient_checkpointing"):
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(config.arguments.get("gradient_checkpointing_kwargs"))
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = 0  # in a run it is the tokenizer's
    model.train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # tensors of a CPU with shapes and no content
        move_to_fake_cpu(model, mode)
        is_summed = int(config.arguments.get("gradient_accumulation_steps") or 1) > 1
        step = measure_step(model, num_labels is None, batch, autocast, is_summed)
    counts = count_parameters(model)
    trained = [each for each in model.parameters() if each.requires_grad]
    trained_bytes = sum(each.numel() * each.element_size() for each in trained)
    packed, largest = _count_packed(config, model)
    frozen = sum(each.numel() * each.element_size() for each in model.parameters() if not each.requires_grad)
    name = str(config.arguments.get("optim", "adamw_torch"))
    num_states = next((number for start, number in _STATES.items() if name.startswith(start)), 2)
    return counts, Memory(
        weights=frozen - packed + trained_bytes,
        gradients=trained_bytes,
        optimizer=num_states * (sum(each.numel() for each in trained) if "8bit" in name else trained_bytes),
        step=step + largest,
    )


def measure_step(
    model: PreTrainedModel, writes: bool, batch: tuple[int, int], dtype: torch.dtype | None, is_summed: bool
) -> int:
    """Run a step without content and give the most bytes that it holds beside parameters and gradients.

    Gradients come while activations go: only where they are summed over batches do both stand there whole.

    Args:
        model: From `build_on_meta`, under the mode that is active still.
        writes: Whether it is a language model.
        batch: Rows, and tokens of each.
        dtype: Of autocast; None: there is none.
        is_summed: Whether gradients of an earlier batch are there already.
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
    """Choose the precision of the weights, that of unpacked ones where they are packed, and that of autocast."""
    section, arguments = config.model, config.arguments
    named = (read_model_config(section) or {}) if section.dtype == "auto" else {"dtype": section.dtype}
    if section.quantization is not None and section.quantization.bits == 4:
        named = {"dtype": section.quantization.compute_dtype}
    autocast = torch.bfloat16 if arguments.get("bf16") else torch.float16 if arguments.get("fp16") else None
    return getattr(torch, str(named.get("dtype") or named.get("torch_dtype") or "float32")), autocast


def _count_packed(config: RunConfig, model: PreTrainedModel) -> tuple[int, int]:
    """Count the bytes that bitsandbytes saves on the frozen linear layers, and those of the largest when unpacked."""
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
