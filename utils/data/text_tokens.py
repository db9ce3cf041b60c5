"""Makes tokens of texts, and cuts them to length: out of the middle of a prompt, so that its answer stays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BREAK = "\ufdd0\ufdd1"  # two characters that Unicode keeps for the inner use of programs
"""Stands in an escaped special token, behind its first character, until the text becomes tokens."""
_OF_ANSWERS = re.compile(r"</?(think|tool_call|tool_response|tools)>")
"""Tokens that answers are made of, which some tokenizers call special."""


@dataclass(frozen=True)
class TextTokens:
    """A tokenizer of texts that are put together from parts."""

    tokenizer: PreTrainedTokenizerBase

    def find_special(self, text: str) -> set[str]:
        """Find the special tokens that stand in a text."""
        return set() if self._special is None else set(self._special.findall(text))

    def escape(self, text: str) -> str:
        """Write a text so that the special tokens in it become the tokens of their characters."""
        return text if self._special is None else self._special.sub(lambda at: at[0][0] + _BREAK + at[0][1:], text)

    def encode_many(self, texts: list[str], continuing: list[bool]) -> list[list[int]]:
        """Encode texts together, which is much faster, without special tokens of the tokenizer's own.

        A text that goes on from another (`continuing`) loses the space that some tokenizers put before every text.
        """
        texts = [self._spaced(text, goes_on) for text, goes_on in zip(texts, continuing, strict=True)]
        if not texts:
            return []
        if any(_BREAK in text for text in texts):
            return [self._encode_broken(text) for text in texts]
        backend = self._backend
        if backend is None:
            found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            return found
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_cut(self, text: str, part: str, max_length: int) -> list[int] | None:
        """Encode a text without the middle tokens of a part of it, which may stand in it without the space around.

        A few tokens less than max_length are kept where a character would be torn. None: the part is not there, or
        all else has more tokens.
        """
        part = part if part in text else part.strip()
        start = text.find(part) if part else -1
        if start < 0:
            return None
        before, inner, after = self._encode_around(text, start, start + len(part))
        room = max_length - len(before) - len(after)
        if room < 0:
            return None
        if len(inner) <= room:
            return [*before, *(index for index, _ in inner), *after]
        head = (room + 1) // 2
        tail = len(inner) - (room - head)
        # Half a character's bytes would be read as another character: both cuts move away from it.
        while head and _is_torn(inner, head):
            head -= 1
        while tail < len(inner) and _is_torn(inner, tail):
            tail += 1
        return [*before, *(index for index, _ in inner[:head]), *(index for index, _ in inner[tail:]), *after]

    @cached_property
    def opening(self) -> list[int]:
        """The beginning-of-text token, where the tokenizer puts one before a text."""
        token = self.tokenizer.bos_token_id
        return [token] if token is not None and self.tokenizer("a")["input_ids"][:1] == [token] else []

    def open(self, ids: list[int]) -> list[int]:
        """Put the beginning-of-text token before a text that has none."""
        return ids if ids[: len(self.opening)] == self.opening else [*self.opening, *ids]

    @cached_property
    def eos_text(self) -> str:
        """The end-of-text token as a text; empty where there is none."""
        return self.tokenizer.eos_token or ""

    @cached_property
    def eos(self) -> int:
        """The end-of-text token."""
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-text token, so the model could not learn to stop; set eos_token in its "
                "tokenizer_config.json"
            )
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before every text, as SentencePiece does."""
        return bool(self.tokenizer.tokenize("a")) and self.tokenizer.tokenize("a")[0].startswith("\u2581")

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        """Finds special tokens."""
        added = {each.content for each in self.tokenizer.added_tokens_decoder.values() if each.special}
        found = {each for each in added | set(self.tokenizer.all_special_tokens) if not _OF_ANSWERS.fullmatch(each)}
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None

    def _encode_broken(self, text: str) -> list[int]:
        """Encode a text whose escaped tokens are broken in two; what is behind a break goes on without a space."""
        first, *others = text.split(_BREAK)
        [ids] = self.encode_many([first], [False])
        for other in others:
            if not self._adds_space:
                ids += self.encode_many([other], [True])[0]
                continue
            _, inner, after = self._encode_around(f"\n{other}", 1, len(other) + 1)
            ids += [*(index for index, _ in inner), *after]
        return ids

    @property
    def _backend(self) -> Any:
        """The fast tokenizer itself: a third faster, and several threads may use it, as nothing is set in it."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and backend.truncation is not None:
            backend.no_truncation()
        if backend is not None and backend.padding is not None:
            backend.no_padding()
        return backend

    def _spaced(self, text: str, goes_on: bool) -> str:
        return text.removeprefix(" ") if goes_on and self._adds_space else text

    def _encode_around(
        self, text: str, start: int, end: int
    ) -> tuple[list[int], list[tuple[int, tuple[int, int]]], list[int]]:
        """Encode a text as what is before a part, the part's tokens with their places, and what is after it."""
        backend = self._backend
        if backend is None or _BREAK in text:  # there are no places of tokens: the parts are encoded by themselves
            pieces = [text[:start], text[start:end], text[end:]]
            before, inner, after = self.encode_many(pieces, [False, start > 0, True])
            return before, [(index, (place, place + 1)) for place, index in enumerate(inner)], after
        encoding = backend.encode(text, add_special_tokens=False)
        tokens = list(zip(encoding.ids, encoding.offsets, strict=True))
        # A token that holds characters of both sides stays with the text around the part.
        first = next((place for place, (_, (left, _)) in enumerate(tokens) if left >= start), len(tokens))
        last = next((place for place, (_, (_, right)) in enumerate(tokens) if right > end), len(tokens))
        last = max(first, last)
        return encoding.ids[:first], tokens[first:last], encoding.ids[last:]


def _is_torn(tokens: list[tuple[int, tuple[int, int]]], place: int) -> bool:
    """Tell whether a character's bytes stand on both sides of a place."""
    return tokens[place - 1][1][1] > tokens[place][1][0]


@dataclass(frozen=True)
class Exchange:
    """A prompt with its answer, in tokens."""

    prompt: list[int]
    answer: list[int]
    """With the token that ends it."""
    trained: bool = True

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Fitted:
    """Exchanges that fit, and what was cut."""

    exchanges: list[Exchange]
    prompt_cut: int = 0
    """Tokens cut out of the first prompt."""
    answer_cut: int = 0
    """Tokens cut off the first answer."""
    exchanges_cut: int = 0


def fit_exchanges(exchanges: list[Exchange], max_length: int) -> Fitted:
    """Cut a conversation, or a prompt with its answer.

    Later exchanges go first. Then the first prompt loses its middle, down to a quarter of the length at most; only
    when the answer still does not fit is its end cut off.
    """
    kept = list(exchanges)
    while len(kept) > 1 and sum(len(each) for each in kept) > max_length:
        kept.pop()
    exchanges_cut = len(exchanges) - len(kept)
    if sum(len(each) for each in kept) <= max_length:
        return Fitted(kept, exchanges_cut=exchanges_cut)
    [only] = kept
    prompt = cut_middle(only.prompt, max(max_length - len(only.answer), max_length // 4))
    answer = only.answer[: max_length - len(prompt)]
    return Fitted(
        [Exchange(prompt, answer, only.trained)],
        prompt_cut=len(only.prompt) - len(prompt),
        answer_cut=len(only.answer) - len(answer),
        exchanges_cut=exchanges_cut,
    )


def cut_middle(ids: list[int], max_length: int) -> list[int]:
    """Keep the head, with the beginning-of-text token, and the tail of a prompt; both are half of what stays."""
    if len(ids) <= max_length:
        return ids
    head = (max_length + 1) // 2
    return ids[:head] + ids[len(ids) - (max_length - head) :]
