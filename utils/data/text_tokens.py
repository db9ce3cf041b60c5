"""Encodes texts, and cuts them to length in the middle of the prompt, so that the answer is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPLIT_MARK = "\ufdd0\ufdd1"  # two characters that Unicode reserves for internal use
"""Inserted after the first character of an escaped special token until the text is encoded."""
_ANSWER_TOKENS = re.compile(r"</?(think|tool_call|tool_response|tools)>")
"""Tokens that are part of answers, although some tokenizers call them special."""


@dataclass(frozen=True)
class TextTokens:
    """Encodes texts that are assembled from parts."""

    tokenizer: PreTrainedTokenizerBase

    def find_special(self, text: str) -> set[str]:
        """Return the special tokens in a text."""
        return set() if self._special is None else set(self._special.findall(text))

    def escape(self, text: str) -> str:
        """Escape a text's special tokens, so that they are encoded as ordinary characters."""
        return text if self._special is None else self._special.sub(lambda at: at[0][0] + _SPLIT_MARK + at[0][1:], text)

    def encode_many(self, texts: list[str], continuing: list[bool]) -> list[list[int]]:
        """Encode texts together, which is much faster, without adding special tokens.

        A text that continues another (`continuing`) loses the space that some tokenizers add before every text.
        """
        texts = [self._strip_added_space(text, continues) for text, continues in zip(texts, continuing, strict=True)]
        if not texts:
            return []
        if any(_SPLIT_MARK in text for text in texts):
            return [self._encode_escaped(text) for text in texts]
        backend = self._backend
        if backend is None:
            found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            return found
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_cut(self, text: str, part: str, max_length: int) -> list[int] | None:
        """Encode a text without the middle tokens of a part of it, which is found even if its whitespace was stripped.

        Slightly fewer than max_length tokens are kept if a character would be split. Returns None if the part is not
        found, or everything else is too long.
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
        # Half of a character's bytes would decode to another character: both cuts move away from it.
        while head and _splits_character(inner, head):
            head -= 1
        while tail < len(inner) and _splits_character(inner, tail):
            tail += 1
        return [*before, *(index for index, _ in inner[:head]), *(index for index, _ in inner[tail:]), *after]

    @cached_property
    def opening(self) -> list[int]:
        """The beginning-of-text token, as a list, empty if the tokenizer does not prepend one."""
        token = self.tokenizer.bos_token_id
        return [token] if token is not None and self.tokenizer("a")["input_ids"][:1] == [token] else []

    def open(self, ids: list[int]) -> list[int]:
        """Prepend the beginning-of-text token, unless it is there already."""
        return ids if ids[: len(self.opening)] == self.opening else [*self.opening, *ids]

    @cached_property
    def eos_text(self) -> str:
        """The end-of-text token as a string; empty if there is none."""
        return self.tokenizer.eos_token or ""

    @cached_property
    def eos(self) -> int:
        """Id of the end-of-text token."""
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-text token, so the model could not learn to stop; set eos_token in its "
                "tokenizer_config.json"
            )
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer adds a space before every text, as SentencePiece does."""
        return bool(self.tokenizer.tokenize("a")) and self.tokenizer.tokenize("a")[0].startswith("\u2581")

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        """Pattern of the special tokens."""
        added = {each.content for each in self.tokenizer.added_tokens_decoder.values() if each.special}
        found = {each for each in added | set(self.tokenizer.all_special_tokens) if not _ANSWER_TOKENS.fullmatch(each)}
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None

    def _encode_escaped(self, text: str) -> list[int]:
        """Encode a text with broken special tokens; the text after a break continues without a space."""
        first, *others = text.split(_SPLIT_MARK)
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
        """The fast tokenizer itself: a third faster, and thread-safe, since no setting of it changes."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and backend.truncation is not None:
            backend.no_truncation()
        if backend is not None and backend.padding is not None:
            backend.no_padding()
        return backend

    def _strip_added_space(self, text: str, continues: bool) -> str:
        return text.removeprefix(" ") if continues and self._adds_space else text

    def _encode_around(
        self, text: str, start: int, end: int
    ) -> tuple[list[int], list[tuple[int, tuple[int, int]]], list[int]]:
        """Encode a text into the tokens before a part, the part's tokens with offsets, and the tokens after it."""
        backend = self._backend
        if backend is None or _SPLIT_MARK in text:  # no offsets: the parts are encoded separately
            pieces = [text[:start], text[start:end], text[end:]]
            before, inner, after = self.encode_many(pieces, [False, start > 0, True])
            return before, [(index, (place, place + 1)) for place, index in enumerate(inner)], after
        encoding = backend.encode(text, add_special_tokens=False)
        tokens = list(zip(encoding.ids, encoding.offsets, strict=True))
        # A token with characters of both sides belongs to the text around the part.
        first = next((place for place, (_, (left, _)) in enumerate(tokens) if left >= start), len(tokens))
        last = next((place for place, (_, (_, right)) in enumerate(tokens) if right > end), len(tokens))
        last = max(first, last)
        return encoding.ids[:first], tokens[first:last], encoding.ids[last:]


def _splits_character(tokens: list[tuple[int, tuple[int, int]]], place: int) -> bool:
    """Return whether a position splits a character's bytes."""
    return tokens[place - 1][1][1] > tokens[place][1][0]


@dataclass(frozen=True)
class Exchange:
    """A prompt with its answer, as tokens."""

    prompt: list[int]
    answer: list[int]
    """Answer tokens including the end token."""
    trained: bool = True

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Fitted:
    """Exchanges that fit, and what was cut."""

    exchanges: list[Exchange]
    prompt_cut: int = 0
    """Number of tokens cut from the first prompt."""
    answer_cut: int = 0
    """Number of tokens cut from the first answer."""
    exchanges_cut: int = 0


def fit_exchanges(exchanges: list[Exchange], max_length: int) -> Fitted:
    """Cut a conversation, or a prompt with its answer, to length.

    Later exchanges are dropped first. Then the first prompt loses its middle, down to a quarter of the length at most;
    only if the answer still does not fit is its end cut off.
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
    """Keep the head, with the beginning-of-text token, and the tail of a prompt, half of `max_length` each."""
    if len(ids) <= max_length:
        return ids
    head = (max_length + 1) // 2
    return ids[:head] + ids[len(ids) - (max_length - head) :]
