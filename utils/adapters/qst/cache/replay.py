"""The backbone cache: a frozen backbone's states of a document never change, so they are computed once.

If all documents of a batch are cached, the layers are skipped; if only some rows are, the layers compute the others.
Masks, positions and embeddings are the model's own in either case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from utils.adapters.qst.cache.documents import Document, find_documents
from utils.adapters.qst.cache.row_store import RowStore
from utils.adapters.qst.side_net import QSTMix

OpenStore: TypeAlias = Callable[[int, int, torch.dtype], RowStore]
"""Opens a store, given the number of states, hidden size and dtype."""


@dataclass
class ReplayCounts:
    """Statistics on skipped computation."""

    num_documents: int = 0
    num_replayed: int = 0
    """Documents whose states were read from the store."""
    num_tokens: int = 0
    num_tokens_replayed: int = 0


@dataclass
class _Plan:
    """How one batch is processed."""

    documents: list[Document]
    stored: list[bool]
    shape: tuple[int, int]
    """Rows and tokens of the batch."""
    missing: torch.Tensor | None = None
    """Rows that the layers compute; None: the layers are skipped."""
    buffer: torch.Tensor | None = None
    """States of cached documents, shape (states, rows, tokens, hidden_size); None: nothing is replayed."""
    running: torch.Tensor | None = None
    """Hidden states of the missing rows on their way through the layers."""


class Replay:
    """Hooks that store a model's hidden states and replay them; the store is opened at the first batch."""

    def __init__(self, model: nn.Module, mix: QSTMix, layers: nn.ModuleList, open_store: OpenStore) -> None:
        self.counts = ReplayCounts()
        self.store: RowStore | None = None
        self.recorder = mix.recorder
        self._mix = mix
        self._open_store = open_store
        self._is_expected = True  # the store's dtype is the model's; no hidden state has confirmed it yet
        num_layers = len(layers)
        self.indices = (*sorted(self.recorder.wanted - {0, num_layers}), num_layers)
        """Indices of the stored states; the first state, of the embeddings, is cheap to compute."""
        self._places = {index: place for place, index in enumerate(self.indices)}
        self._homes = [
            (mix._modules, "base_layer") if layer is mix else (layers._modules, str(index))
            for index, layer in enumerate(layers)
        ]
        self._passed = [_PassedLayer(self, index, home[key]) for index, (home, key) in enumerate(self._homes)]
        self._plan: _Plan | None = None
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        ]
        mix.observe = self._observe

    def close(self) -> None:
        """Remove the hooks and close the store."""
        self._put_back()
        for handle in (*self._handles, *(passed.note for passed in self._passed)):
            handle.remove()
        self._mix.observe = None
        if self.store is not None:
            self.store.close()

    def pass_layer(self, index: int, original: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace a layer: compute the missing rows, and read the others from the store."""
        plan = self._plan
        assert plan is not None, "layers are passed only with a plan"
        assert plan.buffer is not None, "and with stored states"
        hidden = self.recorder.record(index, args, kwargs)
        if plan.missing is not None:
            plan.running = hidden[plan.missing] if index == 0 else plan.running
            plan.running = self._compute(original, args, kwargs, plan)
        place = self._places.get(index + 1)
        if place is None:
            return hidden  # not read by any side block
        states = plan.buffer[place]
        if plan.missing is not None and plan.running is not None:
            states[plan.missing] = plan.running
        return states

    def _compute(self, original: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plan: _Plan) -> torch.Tensor:
        assert plan.missing is not None, "there is something to compute"
        args, kwargs = _take(args, plan.missing, plan.shape), _take(kwargs, plan.missing, plan.shape)
        args, kwargs = ((plan.running, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": plan.running})
        self.recorder.is_paused = True
        try:
            output = original(*args, **kwargs)
        finally:
            self.recorder.is_paused = False
        computed: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return computed.detach()

    def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look up a batch's documents, and replace the layers if some are stored."""
        self._put_back()  # torch calls no hook after a KeyboardInterrupt
        if args or not self._applies(model, kwargs):
            return None
        kwargs = {**kwargs, "use_cache": False} if "use_cache" in kwargs or _knows_cache(model) else kwargs
        documents = find_documents(kwargs, self._salt(kwargs["input_ids"]))
        if documents is None:
            return args, kwargs
        if self.store is None:  # opened before the first batch: its rows may already be on disk
            self.store = self._open_store(len(self.indices), model.config.get_text_config().hidden_size, model.dtype)
        store, shape = self.store, tuple(kwargs["input_ids"].shape)
        # A score is that of the saved model: rounded states are for training alone.
        if not store.is_exact and not self._mix.qst_side.training:
            return args, kwargs
        plan = _Plan(documents, [each.key in store for each in documents], shape)
        self._plan = plan
        # Rows can be taken out of a padded batch, but documents cannot be taken out of a packed row.
        if any(plan.stored) and (all(plan.stored) or len(documents) == shape[0]):
            self._fill(plan, kwargs["input_ids"])
        self._count(plan)
        if plan.buffer is not None:
            for (home, key), passed in zip(self._homes, self._passed, strict=True):
                home[key] = passed
        return args, kwargs

    def _fill(self, plan: _Plan, ids: torch.Tensor) -> None:
        """Read the stored documents; damaged ones count as missing, and prevent the replay of a packed batch."""
        store = self.store
        assert store is not None, "something is stored"
        pinned = ids.device.type == "cuda"
        shape = (len(self.indices), *plan.shape, store.hidden_size)
        buffer = torch.zeros(shape, dtype=store.dtype, pin_memory=pinned)
        for place, each in enumerate(plan.documents):
            if plan.stored[place]:
                plan.stored[place] = store.read_into(each.key, buffer[:, each.row], each.start)
        missing = [each.row for each, is_stored in zip(plan.documents, plan.stored, strict=True) if not is_stored]
        if missing and len(plan.documents) != plan.shape[0]:
            return
        plan.missing = torch.tensor(missing, device=ids.device) if missing else None
        plan.buffer = buffer.to(ids.device, non_blocking=pinned)

    def _count(self, plan: _Plan) -> None:
        sizes = [each.num_tokens for each in plan.documents]
        self.counts.num_documents += len(sizes)
        self.counts.num_tokens += sum(sizes)
        if plan.buffer is not None:
            self._is_expected = False
            self.counts.num_replayed += sum(plan.stored)
            kept = zip(sizes, plan.stored, strict=True)
            self.counts.num_tokens_replayed += sum(size for size, is_stored in kept if is_stored)

    def _observe(self, states: Mapping[int, torch.Tensor]) -> None:
        """Store newly computed states."""
        plan = self._plan
        if plan is None or all(plan.stored):
            return
        last, store = states[self.indices[-1]], self.store
        assert store is not None, "there is no plan without a store"
        if last.dtype != store.dtype and self._is_expected:  # e.g. autocast with norms in float32
            store.close()
            self.store = store = self._open_store(len(self.indices), last.shape[-1], last.dtype)
        self._is_expected = False
        if last.dtype != store.dtype:
            return
        for each, is_stored in zip(plan.documents, plan.stored, strict=True):
            if not is_stored and each.key not in store:
                part = [states[index][each.row, each.start : each.stop] for index in self.indices]
                store.add(each.key, torch.stack(part).cpu())

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        """Restore the layers, even if the forward pass failed."""
        self._put_back()

    def _put_back(self) -> None:
        if self._plan is not None and self._plan.buffer is not None:
            for (home, key), passed in zip(self._homes, self._passed, strict=True):
                home[key] = passed.original
        self._plan = None

    def _applies(self, model: Any, kwargs: dict[str, Any]) -> bool:
        """Return whether this is a plain forward pass over token ids, as opposed to generation and other uses."""
        names = ("output_hidden_states", "output_attentions")
        if any(getattr(model.config, name, False) if kwargs.get(name) is None else kwargs[name] for name in names):
            return False
        # Scores are those of the saved model: rounded states are only for training.
        if self.store is not None and not self.store.is_exact and not self._mix.qst_side.training:
            return False
        if self._mix.disable_adapters or kwargs.get("use_cache") or kwargs.get("past_key_values") is not None:
            return False
        ids = kwargs.get("input_ids")
        return isinstance(ids, torch.Tensor) and ids.dim() == 2 and kwargs.get("inputs_embeds") is None

    @staticmethod
    def _salt(ids: torch.Tensor) -> bytes:
        kind = ids.device.type
        return str(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else "").encode()


class _PassedLayer(nn.Module):
    """Replaces a layer during one forward pass."""

    def __init__(self, replay: Replay, index: int, original: nn.Module | None) -> None:
        super().__init__()
        assert original is not None, "a layer is a module"
        self.__dict__["original"] = original  # not registered as a child: it keeps its place in the model
        self.__dict__["_replay"] = replay
        self._index = index
        self._num_beside: int | None = None
        self.note = original.register_forward_hook(self._note_kind)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's states, with None for any other outputs of the layer."""
        states = self.__dict__["_replay"].pass_layer(self._index, self.original, args, kwargs)
        return states if self._num_beside is None else (states, *[None] * self._num_beside)

    def _note_kind(self, layer: nn.Module, args: Any, output: Any) -> None:
        self._num_beside = len(output) - 1 if isinstance(output, tuple) else None

    def __getattr__(self, name: str) -> Any:
        """Delegate to the layer, whose attributes models read."""
        return getattr(self.__dict__["original"], name)


def _take(value: Any, rows: torch.Tensor, shape: tuple[int, int]) -> Any:
    """Select rows of everything with a row dimension; a matrix with other columns is a table of the layer."""
    if isinstance(value, torch.Tensor):
        by_row = value.dim() > 1 and value.shape[0] == shape[0] and (value.dim() > 2 or value.shape[1] == shape[1])
        return value[rows] if by_row else value
    if isinstance(value, tuple | list):
        return type(value)(_take(each, rows, shape) for each in value)
    if isinstance(value, dict):
        return {key: _take(each, rows, shape) for key, each in value.items()}
    return value


def _knows_cache(model: nn.Module) -> bool:
    from inspect import signature

    return "use_cache" in signature(type(model).forward).parameters
