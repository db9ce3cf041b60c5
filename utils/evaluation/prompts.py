"""Tokenized prompts of a set: their maximum length, and cutting longer ones in the middle."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.text_tokens import cut_middle
from utils.generation.batching import find_prompt_limit

if TYPE_CHECKING:
    from utils.data.dataset import Example
    from utils.data.encoding import ExampleEncoder

_OFFICIAL_FROM = 4096  # the smallest window for which LongBench defines a length
_OFFICIAL_SPARE = 500


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a model is asked; scores are comparable only if it is the same."""

    label: str
    """Name of the result and its folder."""
    protocol: str
    """Name of the way of prompting and scoring."""
    num_total: int
    """Number of rows of the split; with fewer prompts the result is partial."""
    prompt_hash: str
    """Hash of all prompts as texts, before they are tokenized and cut."""
    fingerprint: str
    """Fingerprint of the rows."""
    num_cut: int = 0
    """Number of prompts whose middle was cut."""
    prompt_limit: int | None = None
    """Tokens to which prompts were cut; None: none was."""
    shots: int = 0
    """Worked examples in the prompt."""
    scorer: str | None = None
    """What compares answers with references, if that is a choice (TruthfulQA)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Other facts about the set on which a score depends: which prompts, which release of the rows."""


class TokenRows(Sequence[list[int]]):
    """Token ids of many prompts, four bytes each; indexing returns a prompt as a list."""

    def __init__(self, rows: Iterable[Sequence[int]]) -> None:
        self._ids = array("i")
        self._ends = array("q", [0])
        for row in rows:
            self._ids.extend(row)
            self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._ids[self._ends[place] : self._ends[place + 1]].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # unhashable, as lists are


@dataclass(frozen=True)
class PromptLimits:
    """Limits on the length of a set's prompts."""

    max_new_tokens: int
    """Maximum tokens of an answer."""
    window: int | None = None
    """Tokens that the model can hold; None: unknown."""
    asked: int | None = None
    """Limit set by the user."""
    official: bool = False
    """Whether the protocol has its own limit, and cuts the whole prompt before it becomes a chat."""

    @property
    def available(self) -> int | None:
        """Tokens that the model can hold besides an answer; None: unlimited."""
        return None if self.window is None else find_prompt_limit(self.window, self.max_new_tokens)

    @property
    def target(self) -> int | None:
        """The limit; None: there is none. The chat template's own tokens come on top of an official one."""
        usual = find_official_limit(self.window, self.max_new_tokens) if self.official and self.window else None
        first = self.asked if self.asked is not None else usual
        limits = [each for each in (first, self.available) if each is not None]
        return min(limits, default=None)


@dataclass(frozen=True)
class EncodedPrompts:
    """The tokenized prompts of a set."""

    rows: TokenRows
    kept: list[int]
    """Indices of the encoded examples."""
    refused: list[str]
    """Where and why the chat template rejects the others."""
    num_cut: int
    """Number of prompts that lost their middle."""


def find_official_limit(window: int, max_new_tokens: int) -> int:
    """Return the length to which LongBench cuts prompts (its config/model2maxlen.json, Bai et al. 2023).

    3500 of 4k positions, 7500 of 8k, 15500 of 16k, 31500 of 32k. It defines none below 4k; there, and where the
    remaining 500 are too few, the set's own answer length is subtracted instead.
    """
    free = find_prompt_limit(window, max_new_tokens)
    return free if window < _OFFICIAL_FROM else min(free, window // 1024 * 1000 - _OFFICIAL_SPARE)


def encode_prompts(
    encoder: ExampleEncoder,
    examples: Iterable[Example],
    places: Iterable[str],
    limits: PromptLimits,
    as_chat: bool,
    drop: bool = False,
) -> EncodedPrompts:
    """Encode prompts and cut those that are too long.

    `places` locates the examples (a file's line, or a row of a split); `as_chat` makes prompts of an official protocol
    a user's turn; `drop` leaves out examples that the chat template rejects.

    Raises:
        DataError: The chat template rejects an example, and `drop` is false; its place is named.
    """
    kept, refused = list[int](), list[str]()
    num_cut = 0

    def encode() -> Iterator[list[int]]:  # one at a time: as lists, all prompts take many times the memory
        nonlocal num_cut
        for number, (example, place) in enumerate(zip(examples, places, strict=True)):
            try:
                ids, is_cut = encode_within(encoder, example, limits, as_chat)
            except RowError as error:
                if not drop:
                    raise DataError(f"{place}: {error}") from error
                refused.append(f"{place}: {error}")
                continue
            kept.append(number)
            num_cut += is_cut
            yield ids

    rows = TokenRows(encode())
    return EncodedPrompts(rows, kept, refused, num_cut)


def encode_within(
    encoder: ExampleEncoder, example: Example, limits: PromptLimits, as_chat: bool
) -> tuple[list[int], bool]:
    """Encode a prompt, and return whether it lost its middle; arguments as for encode_prompts.

    Raises:
        RowError: The chat template rejects it.
    """
    if limits.official:
        return _encode_official(encoder, example, limits, as_chat)
    return _encode(encoder, example, limits.target)


def describe_prompt(example: Example, as_chat: bool) -> Any:
    """Return the prompt as texts, before tokenizing and cutting."""
    if example.messages:
        turns = list(example.messages)
        turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
        return [*turns, {"tools": example.tools}] if example.tools else turns
    return example.user_turn or example.prompt if as_chat and not example.plain else example.prompt


def _encode(encoder: ExampleEncoder, example: Example, limit: int | None) -> tuple[list[int], bool]:
    ids = encoder.encode_prompt(example)
    if limit is None or len(ids) <= limit:
        return ids, False
    return encoder.encode_prompt(example, limit), True


def _encode_official(
    encoder: ExampleEncoder, example: Example, limits: PromptLimits, as_chat: bool
) -> tuple[list[int], bool]:
    """Encode with the official truncation, and cut more if a chat's own tokens take the space of the answer."""
    whole = encoder.encode_official(example, None, as_chat)
    target, room = limits.target, limits.available
    if target is None or len(whole) <= target:
        return whole, False
    ids = encoder.encode_official(example, target, as_chat)
    while room is not None and len(ids) > room and target > 1:
        target = max(target - (len(ids) - room), 1)
        ids = encoder.encode_official(example, target, as_chat)
    ids = ids if room is None else cut_middle(ids, room)
    return ids, ids != whole
