"""Ends the answers that contain a stop text, and cuts answers before it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria


def cut_at_stop(text: str, stop: Collection[str], start: int = 0) -> tuple[str, bool]:
    """Cut a text before the first of the stop texts, and tell whether there was one; none is looked for before start.

    Args:
        text: The text.
        stop: Any of them ends it.
        start: The first character at which one may begin.
    """
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


def find_stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Collection[str]) -> tuple[int, ...]:
    """Find the tokens that are a stop text by themselves, such as that of a line break."""
    last = [ids[-1] for each in stop if (ids := tokenizer(each, add_special_tokens=False)["input_ids"])]
    return tuple(dict.fromkeys(index for index in last if decode_answer(tokenizer, [index]) in stop))


class StopTexts(StoppingCriteria):  # type: ignore[misc]  # the base class is not typed
    """Ends each row of a batch as soon as its text holds a stop text.

    Args:
        tokenizer: Decodes the rows.
        stop: Texts that end a row; at least one.
        prompt_length: Padded length of the prompts, which are not searched.
        num_open: So many first tokens of an answer are not searched either.
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
            if row not in self.lengths and self._holds_stop(ids):
                self.lengths[row] = self._num_open + len(ids)
        ended = [row in self.lengths for row in range(len(answers))]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

    def _holds_stop(self, ids: list[int]) -> bool:
        return self._is_in(ids[-self._tail :]) and (len(ids) <= self._tail or self._is_in(ids))

    def _is_in(self, ids: list[int]) -> bool:
        return cut_at_stop(decode_answer(self._tokenizer, ids), self._stop)[1]


class HoldOpen(LogitsProcessor):  # type: ignore[misc]  # the base class is not typed
    """Keeps answers from ending among their first tokens.

    Args:
        end_ids: Tokens that must not be chosen there.
        prompt_length: Padded length of the prompts.
        num_open: Tokens that an answer has at least.
    """

    def __init__(self, end_ids: Sequence[int], prompt_length: int, num_open: int) -> None:
        self._end_ids = list(end_ids)
        self._first_free = prompt_length + num_open

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Give the scores (rows, vocabulary), those of the end tokens at minus infinity while it is too early."""
        if input_ids.shape[1] >= self._first_free or not self._end_ids:
            return scores
        return scores.index_fill(-1, torch.tensor(self._end_ids, device=scores.device), float("-inf"))
