"""How tokens are chosen, where an answer ends, and how it is streamed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from utils.config.sections.generation import GenerationSection
from utils.core.errors import ModelError
from utils.generation.backend import Generated


def build_sampler(section: GenerationSection, rows: Sequence[int], seed: int) -> LogitsProcessorList:
    """Build the processors that choose the next tokens of a batch; empty at temperature 0, which is greedy.

    A row's number in the whole set determines, with the seed, what the row samples.
    """
    if section.temperature == 0:
        return LogitsProcessorList()
    warpers = [TopKLogitsWarper(section.top_k)] if section.top_k is not None else []
    warpers += [TopPLogitsWarper(section.top_p)] if section.top_p is not None else []
    draws = torch.stack([_draw_numbers(seed, row, section.max_new_tokens) for row in rows])
    return LogitsProcessorList([_Temperature(section.temperature), *warpers, _SampleToken(draws)])


def _draw_numbers(seed: int, row: int, number: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, row]).random(number))


def require_finite(logits: torch.Tensor) -> None:
    """Raise a ModelError if the likeliest logits are not finite: the tokens chosen by them would mean nothing."""
    if not logits.isfinite().all():
        raise ModelError(
            "the model computes logits that are not finite (nan or infinity): float16 can overflow (set model.dtype to "
            "bfloat16 or float32); otherwise its weights are damaged or its training has diverged"
        )


class RequireFinite(LogitsProcessor):
    """Checks logits before they are changed; comes first."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """See LogitsProcessor; raises a ModelError."""
        require_finite(scores.amax(dim=-1))
        return scores


class _Temperature(LogitsProcessor):
    """Divides logits; unlike transformers' own, it accepts very small values."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores / self._temperature


class _SampleToken(LogitsProcessor):
    """Leaves one token per row, chosen by inverting the distribution at a number drawn beforehand."""

    def __init__(self, draws: torch.Tensor) -> None:
        self._draws = draws
        self._step = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        shares = scores.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
        # A point between 0 and the sum of the probabilities, which rounding keeps from being exactly 1.
        points = self._draws[:, self._step, None].to(shares.device) * shares[:, -1:]
        self._step += 1
        chosen = torch.searchsorted(shares, points, right=True).clamp_(max=shares.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter_(-1, chosen, 0.0)


def cut_at_stop(text: str, stop: Collection[str], start: int = 0) -> tuple[str, bool]:
    """Cut a text before the first stop string at or after `start`, and return whether there was one."""
    places = [place for each in stop if (place := text.find(each, start)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode generated ids without special tokens and without cleaning up spaces."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def read_answer(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop: Collection[str], min_tokens: int = 0
) -> tuple[str, bool]:
    """Decode an answer, cut before the first stop string after `min_tokens` tokens; also return if there was one."""
    start = len(decode_answer(tokenizer, ids[:min_tokens])) if min_tokens else 0
    return cut_at_stop(decode_answer(tokenizer, ids), stop, start)


def read_generated(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    end_ids: Collection[int],
    stop: Collection[str],
    min_tokens: int = 0,
    stopped_at: int | None = None,
) -> Generated:
    """Build an answer from a row's tokens, which may continue after its end.

    It ends with a token of `end_ids` or, by a stop string, after `stopped_at` tokens. `min_tokens`: see `read_answer`.
    """
    end = next((place for place, token in enumerate(ids) if token in end_ids), None)
    num_tokens = min([len(ids), *([end + 1] if end is not None else []), *([stopped_at] if stopped_at else [])])
    kept = ids[: num_tokens - 1] if end == num_tokens - 1 else ids[:num_tokens]
    text, has_stop = read_answer(tokenizer, kept, stop, min_tokens)
    return Generated(text, num_tokens, end == num_tokens - 1 or has_stop, tuple(ids[:num_tokens]))


def find_stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Collection[str]) -> tuple[int, ...]:
    """Return the tokens that are a stop string by themselves, such as that of a line break."""
    last = [ids[-1] for each in stop if (ids := tokenizer(each, add_special_tokens=False)["input_ids"])]
    return tuple(dict.fromkeys(index for index in last if decode_answer(tokenizer, [index]) in stop))


class StopTexts(StoppingCriteria):
    """Ends each row of a batch as soon as its text contains a stop string.

    Neither the prompts (`prompt_length`, padded) nor the first `min_tokens` tokens of the answers are searched.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Collection[str], prompt_length: int, min_tokens: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._prompt_length = prompt_length
        self._min_tokens = min_tokens
        # A character has at most four tokens, of one byte each; a few more for tokens that decode to nothing.
        self._tail = 4 * max(map(len, stop)) + 8
        self.lengths: dict[int, int] = {}
        """Number of tokens of each row when it ended, by its index in the batch."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Return which rows have ended: (rows, padded length) to (rows,)."""
        answers = input_ids[:, self._prompt_length + self._min_tokens :].tolist()
        for row, ids in enumerate(answers):
            if row not in self.lengths and self.holds_stop(ids):
                self.lengths[row] = self._min_tokens + len(ids)
        ended = [row in self.lengths for row in range(len(answers))]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

    def holds_stop(self, ids: list[int]) -> bool:
        """Return whether a row's tokens contain a stop string that the last token completed."""
        # Decoding the whole answer at each step would take quadratic time, so its end is checked first.
        return self._is_in(ids[-self._tail :]) and (len(ids) <= self._tail or self._is_in(ids))

    def _is_in(self, ids: list[int]) -> bool:
        return cut_at_stop(decode_answer(self._tokenizer, ids), self._stop)[1]


class SuppressEndTokens(LogitsProcessor):
    """Keeps answers from ending with one of `end_ids` within `min_tokens` tokens after the padded prompts."""

    def __init__(self, end_ids: Sequence[int], prompt_length: int, min_tokens: int) -> None:
        self._end_ids = list(end_ids)
        self._first_allowed = prompt_length + min_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores (rows, vocabulary), with the end tokens at minus infinity while it is too early."""
        if input_ids.shape[1] >= self._first_allowed or not self._end_ids:
            return scores
        return scores.index_fill(-1, torch.tensor(self._end_ids, device=scores.device), float("-inf"))


_UNFINISHED = "\ufffd"  # what the first bytes of a multi-byte character decode to


class AnswerStream:
    """Receives tokens from transformers' generate, and passes their text to `show` in pieces.

    A token of `end_ids` or a stop string ends the answer, but no stop string within its first `min_tokens` tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: Collection[str],
        end_ids: Collection[int],
        show: Callable[[str], None],
        min_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._end_ids = end_ids
        self._show = show
        self._min_tokens = min_tokens
        self._ids: list[int] = []
        self._shown = ""
        self._has_prompt = False

    def put(self, value: Any) -> None:
        """Receive the prompt, which is not shown, and then token by token."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        # All tokens are decoded again: a character, or the space before a word, may span several tokens.
        self._ids += [int(each) for each in value.reshape(-1) if int(each) not in self._end_ids]
        text, has_stop = read_answer(self._tokenizer, self._ids, self._stop, self._min_tokens)
        self._show_up_to(text if has_stop else self._hold_back(text))

    def end(self) -> None:
        """Ignored: `finish` shows what was held back."""

    def finish(self, text: str) -> None:
        """Show the rest of the whole answer."""
        self._show_up_to(text)

    def _hold_back(self, text: str) -> str:
        """Remove an incomplete character, and an end that may be the beginning of a stop string."""
        text = text.rstrip(_UNFINISHED)
        longest = max((_overlap(text, each) for each in self._stop), default=0)
        return text[: len(text) - longest]

    def _show_up_to(self, text: str) -> None:
        if len(text) > len(self._shown) and text.startswith(self._shown):
            self._show(text[len(self._shown) :])
            self._shown = text


def _overlap(text: str, stop: str) -> int:
    """Return the number of characters at a text's end with which a stop string begins."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
