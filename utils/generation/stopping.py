"""Ends the answers that contain a stop text, and cuts answers before it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria


def cut_at_stop(text: str, stop: Collection[str]) -> tuple[str, bool]:
    """Cut a text before the first of the stop texts, and tell whether there was one."""
    places = [place for each in stop if (place := text.find(each)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode generated ids as they are: without special tokens, and without mending spaces."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopTexts(StoppingCriteria):  # type: ignore[misc]  # the base class is not typed
    """Ends each row of a batch as soon as its text holds a stop text.

    Args:
        tokenizer: Decodes the rows.
        stop: Texts that end a row; at least one.
        prompt_length: Padded length of the prompts, which are not searched.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Collection[str], prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._prompt_length = prompt_length
        # A character is at most four tokens, of one byte each; some more stand for what decodes to nothing.
        self._tail = 4 * max(map(len, stop)) + 8
        self.lengths: dict[int, int] = {}
        """Tokens that a row had when it ended, by the row's number in the batch."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Tell which rows have ended: (rows, padded length) to (rows,)."""
        answers = input_ids[:, self._prompt_length :].tolist()
        for row, ids in enumerate(answers):
            if row not in self.lengths and self._holds_stop(ids):
                self.lengths[row] = len(ids)
        ended = [row in self.lengths for row in range(len(answers))]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

    def _holds_stop(self, ids: list[int]) -> bool:
        return self._is_in(ids[-self._tail :]) and (len(ids) <= self._tail or self._is_in(ids))

    def _is_in(self, ids: list[int]) -> bool:
        return cut_at_stop(decode_answer(self._tokenizer, ids), self._stop)[1]
