"""Shows one answer while it is written: whole characters, and nothing that a stop text may still take back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from utils.generation.stopping import read_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"  # what the first bytes of a longer character decode to


class AnswerStream:
    """Takes tokens as transformers' generate gives them, and shows their text.

    Args:
        tokenizer: Decodes the tokens.
        stop: Texts that end the answer.
        end_ids: Tokens that end the answer.
        show: Is called with each new piece of text.
        num_open: No stop text ends the answer among its first so many tokens.
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
