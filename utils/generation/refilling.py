"""Greedy decoding in a batch that is refilled as rows end, with a shared prefix that is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from utils.generation.classification import input_names
from utils.generation.decoding import require_finite
from utils.modeling.sizes import is_prompt_learning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MIN_PREFIX = 16  # in tokens; a shorter prefix saves less than its own forward pass costs
_NEEDED = {"attention_mask", "position_ids", "past_key_values", "use_cache"}

EndTest = Callable[[int, list[int]], bool]
"""Returns, given a row and its generated tokens, whether its answer has ended."""


def can_refill(model: PreTrainedModel) -> bool:
    """Return whether a model's cache holds keys and values of all tokens, so that rows can be added and removed."""
    if is_prompt_learning(model):
        return False
    if hasattr(model, "peft_config") and not type(model.base_model).__module__.startswith("peft."):
        return False  # one of our own methods, which may have state besides the cache
    plain: Any = model.get_base_model() if hasattr(model, "peft_config") else model
    if getattr(plain, "_is_stateful", False) or plain.config.is_encoder_decoder:
        return False
    layers = DynamicCache(config=plain.config.get_text_config(decoder=True)).layers
    return input_names(model) >= _NEEDED and {type(each) for each in layers} == {DynamicLayer}


def write_refilling(
    model: PreTrainedModel, prompts: Mapping[int, Sequence[int]], num_slots: int, has_ended: EndTest
) -> Iterator[tuple[int, list[int]]]:
    """Answer prompts, token ids by row, in their order; yield each row with its tokens as soon as it has ended.

    The batch has at most `num_slots` rows. New ones are added once a quarter of it is free, since a forward pass for
    each would cost more than the empty slots.
    """
    batch, waiting = _Batch(model, list(prompts.values())), list(prompts)
    while waiting or batch.rows:
        num_free = num_slots - len(batch.rows)
        if waiting and (not batch.rows or num_free >= max(num_slots // 4, 1)):
            new, waiting = waiting[:num_free], waiting[num_free:]
            batch.take({row: prompts[row] for row in new})
        else:
            batch.step()
        yield from batch.drop(has_ended)


class _Batch:
    """Rows being generated: the shared prefix, then left padding, the rest of each prompt, and its answer."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self.rows: list[int] = []
        self._model: Any = model
        # The logits of whole prompts would take more memory than everything else.
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in input_names(model) else {}
        self._written: list[list[int]] = []
        self._cache = DynamicCache()
        self._mask = torch.empty(0)
        shared = _find_prefix(prompts) if len(prompts) > 1 else []
        self._prefix = shared if len(shared) >= _MIN_PREFIX else []
        self._prefix_cache = DynamicCache()
        if self._prefix:
            ids = torch.tensor([self._prefix], device=model.device)
            self._forward(ids, torch.ones_like(ids), self._prefix_cache)

    def take(self, new: Mapping[int, Sequence[int]]) -> None:
        """Read prompts, and generate the first token of each answer."""
        start, device = len(self._prefix), self._model.device
        rest = [list(prompt[start:]) for prompt in new.values()]
        width = max(map(len, rest))
        gaps = [width - len(each) for each in rest]
        ids = torch.tensor([[0] * gap + each for gap, each in zip(gaps, rest, strict=True)], device=device)
        mask = torch.tensor([[1] * start + [0] * gap + [1] * (width - gap) for gap in gaps], device=device)
        cache = DynamicCache()
        for number, layer in enumerate(self._prefix_cache.layers):
            kept = (each.expand(len(rest), -1, -1, -1) for each in (layer.keys, layer.values))
            cache.update(*kept, number)
        first = self._forward(ids, mask, cache)
        if self.rows:
            self._join(mask, cache)
        else:
            self._mask, self._cache = mask, cache
        self.rows += new
        self._written += [[token] for token in first]

    def step(self) -> None:
        """Generate one more token of every answer."""
        last = torch.tensor([[each[-1]] for each in self._written], device=self._model.device)
        self._mask = pad(self._mask, (0, 1), value=1)
        for written, token in zip(self._written, self._forward(last, self._mask, self._cache), strict=True):
            written.append(token)

    def drop(self, has_ended: EndTest) -> list[tuple[int, list[int]]]:
        """Remove the rows that have ended, and the columns that only they needed."""
        ended = [has_ended(row, ids) for row, ids in zip(self.rows, self._written, strict=True)]
        if not any(ended):
            return []
        pairs = list(zip(self.rows, self._written, strict=True))
        places = [place for place, end in enumerate(ended) if not end]
        self.rows, self._written = [self.rows[place] for place in places], [self._written[place] for place in places]
        if places:
            start = len(self._prefix)
            self._mask = self._mask[places]
            idle = int(self._mask[:, start:].argmax(dim=1).min())
            self._mask = _cut(self._mask, 1, start, idle)
            for layer in self._cache.layers:
                layer.keys, layer.values = (_cut(each[places], 2, start, idle) for each in (layer.keys, layer.values))
        return [pair for pair, end in zip(pairs, ended, strict=True) if end]

    def _join(self, mask: torch.Tensor, cache: DynamicCache) -> None:
        """Append rows, padding both to the width of the wider."""
        start, width = len(self._prefix), max(self._mask.shape[1], mask.shape[1])
        self._mask = torch.cat([_widen(each, 1, start, width) for each in (self._mask, mask)])
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys = torch.cat([_widen(each, 2, start, width) for each in (old.keys, new.keys)])
            old.values = torch.cat([_widen(each, 2, start, width) for each in (old.values, new.values)])

    @torch.no_grad()
    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> list[int]:
        """Read tokens after those in the cache, which grows by them; return the likeliest next token of each row."""
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True, **self._last
        )
        logits = output.logits[:, -1]
        likeliest = logits.argmax(dim=-1)
        require_finite(logits.gather(1, likeliest[:, None]))  # argmax takes nan for the maximum
        tokens: list[int] = likeliest.tolist()
        return tokens


def _find_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens with which all prompts begin, leaving each at least one of its own."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # all others are between these two
    shortest = min(map(len, prompts)) - 1
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return [token for token, _ in same][:shortest]


def _widen(values: torch.Tensor, axis: int, start: int, width: int) -> torch.Tensor:
    """Insert columns of zeros after the prefix."""
    head, rest = values.split([start, values.shape[axis] - start], dim=axis)
    zeros = [*rest.shape]
    zeros[axis] = width - values.shape[axis]
    return torch.cat([head, rest.new_zeros(zeros), rest], dim=axis)


def _cut(values: torch.Tensor, axis: int, start: int, count: int) -> torch.Tensor:
    """Remove columns after the prefix."""
    if not count:
        return values
    head, _, rest = values.split([start, count, values.shape[axis] - start - count], dim=axis)
    return torch.cat([head, rest], dim=axis)
