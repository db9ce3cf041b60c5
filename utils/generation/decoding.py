"""How tokens are chosen, where an answer ends, and how it is shown while it is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

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
from utils.generation.backend import Generated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_sampler(section: GenerationSection, rows: Sequence[int], seed: int) -> LogitsProcessorList:
    """Build the processors that choose the next tokens of a batch; empty at temperature 0, where the likeliest is.

    The number of a row in the whole set decides, with the seed, what the row draws.
    """
    if section.temperature == 0:
        return LogitsProcessorList()
    warpers = [TopKLogitsWarper(section.top_k)] if section.top_k is not None else []
    warpers += [TopPLogitsWarper(section.top_p)] if section.top_p is not None else []
    draws = torch.stack([_draw(seed, row, section.max_new_tokens) for row in rows])
    return LogitsProcessorList([_Temperature(section.temperature), *warpers, _Choice(draws)])


def _draw(seed: int, row: int, number: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, row]).random(number))


class _Temperature(LogitsProcessor):  # type: ignore[misc]  # the base class is not typed
    """Divides logits; transformers' own is not used because it refuses small values that are fine here."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores / self._temperature


class _Choice(LogitsProcessor):  # type: ignore[misc]  # the base class is not typed
    """Leaves one token per row, chosen by inverting the distribution at a number drawn beforehand."""

    def __init__(self, draws: torch.Tensor) -> None:
        self._draws = draws
        self._step = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        shares = scores.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
        # A point drawn from 0 to the sum of the shares, which rounding keeps from being 1.
        points = self._draws[:, self._step, None].to(shares.device) * shares[:, -1:]
        self._step += 1
        chosen = torch.searchsorted(shares, points, right=True).clamp_(max=shares.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter_(-1, chosen, 0.0)


def cut_at_stop(text: str, stop: Collection[str], start: int = 0) -> tuple[str, bool]:
    """Cut a text before the first of the stop texts that begins at `start` or later, and tell whether there was one."""
    places = [place for each in stop if (place := text.find(each, start)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode generated ids as they are: without special tokens, and without mending spaces."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def read_answer(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop: Collection[str], num_open: int = 0
) -> tuple[str, bool]:
    """Decode an answer, cut before the first stop text behind its first `num_open` tokens; tell if there was one."""
    start = len(decode_answer(tokenizer, ids[:num_open])) if num_open else 0
    return cut_at_stop(decode_answer(tokenizer, ids), stop, start)


def read_generated(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    end_ids: Collection[int],
    stop: Collection[str],
    num_open: int = 0,
    stopped_at: int | None = None,
) -> Generated:
    """Make an answer of a row's tokens, which may go on behind its end.

    It ends with a token of `end_ids`, or, by a stop text, after `stopped_at` tokens. For `num_open` see `read_answer`.
    """
    end = next((place for place, token in enumerate(ids) if token in end_ids), None)
    num_tokens = min([len(ids), *([end + 1] if end is not None else []), *([stopped_at] if stopped_at else [])])
    kept = ids[: num_tokens - 1] if end == num_tokens - 1 else ids[:num_tokens]
    text, has_stop = read_answer(tokenizer, kept, stop, num_open)
    return Generated(text, num_tokens, end == num_tokens - 1 or has_stop, tuple(ids[:num_tokens]))


def find_stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Collection[str]) -> tuple[int, ...]:
    """Find the tokens that are a stop text by themselves, such as that of a line break."""
    last = [ids[-1] for each in stop if (ids := tokenizer(each, add_special_tokens=False)["input_ids"])]
    return tuple(dict.fromkeys(index for index in last if decode_answer(tokenizer, [index]) in stop))


class StopTexts(StoppingCriteria):  # type: ignore[misc]  # the base class is not typed
    """Ends each row of a batch as soon as its text holds a stop text.

    Neither the prompts (`prompt_length`, padded) nor the first `num_open` tokens of the answers are searched.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Collection[str], prompt_length: int, num_open: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._prompt_length = prompt_length
        self._num_open = num_open
        # A character is at most four tokens, of one byte each; some more stand for what decodes to nothing.
        self._tail = 4 * max(map(len, stop)) + 8
        self.lengths: dict[int, int] = {}
        """Tokens that a row had when it ended, by the row's number in the batch."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Tell which rows have ended: (rows, padded length) to (rows,)."""
        answers = input_ids[:, self._prompt_length + self._num_open :].tolist()
        for row, ids in enumerate(answers):
            if row not in self.lengths and self.holds_stop(ids):
                self.lengths[row] = self._num_open + len(ids)
        ended = [row in self.lengths for row in range(len(answers))]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

    def holds_stop(self, ids: list[int]) -> bool:
        """Tell whether a row's tokens hold a stop text that was not there before the last one."""
        # Decoding the whole answer at each step would take quadratic time: only where its end holds a stop text.
        return self._is_in(ids[-self._tail :]) and (len(ids) <= self._tail or self._is_in(ids))

    def _is_in(self, ids: list[int]) -> bool:
        return cut_at_stop(decode_answer(self._tokenizer, ids), self._stop)[1]


class HoldOpen(LogitsProcessor):  # type: ignore[misc]  # the base class is not typed
    """Keeps answers from ending by one of `end_ids` among their first `num_open` tokens, behind the padded prompts."""

    def __init__(self, end_ids: Sequence[int], prompt_length: int, num_open: int) -> None:
        self._end_ids = list(end_ids)
        self._first_free = prompt_length + num_open

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Give the scores (rows, vocabulary), those of the end tokens at minus infinity while it is too early."""
        if input_ids.shape[1] >= self._first_free or not self._end_ids:
            return scores
        return scores.index_fill(-1, torch.tensor(self._end_ids, device=scores.device), float("-inf"))


_UNFINISHED = "\ufffd"  # what the first bytes of a longer character decode to


class AnswerStream:
    """Takes tokens as transformers' generate gives them, and hands their text to `show`, piece by piece.

    A token of `end_ids` or a stop text ends the answer, but no stop text among its first `num_open` tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: Collection[str],
        end_ids: Collection[int],
        show: Callable[[str], None],
        num_open: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._end_ids = end_ids
        self._show = show
        self._num_open = num_open
        self._ids: list[int] = []
        self._shown = ""
        self._has_prompt = False

    def put(self, value: Any) -> None:
        """Take the prompt, which is not shown, and after it token by token."""
        if not self._has_prompt:
            self._has_prompt = True
            return
        # All tokens are decoded again: a character, or the space before a word, may take more than the last one.
        self._ids += [int(each) for each in value.reshape(-1) if int(each) not in self._end_ids]
        text, has_stop = read_answer(self._tokenizer, self._ids, self._stop, self._num_open)
        self._show_up_to(text if has_stop else self._hold_back(text))

    def end(self) -> None:
        """Be told of the end; `finish` shows what was held back."""

    def finish(self, text: str) -> None:
        """Show what is left of the whole answer."""
        self._show_up_to(text)

    def _hold_back(self, text: str) -> str:
        """Leave out an unfinished character, and an end with which a stop text may begin."""
        text = text.rstrip(_UNFINISHED)
        longest = max((_overlap(text, each) for each in self._stop), default=0)
        return text[: len(text) - longest]

    def _show_up_to(self, text: str) -> None:
        if len(text) > len(self._shown) and text.startswith(self._shown):
            self._show(text[len(self._shown) :])
            self._shown = text


def _overlap(text: str, stop: str) -> int:
    """Count the characters at a text's end with which a stop text begins."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
