"""Prompts of a set as tokens: how long they may be, and how they lose their middle where they are longer."""

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

_OFFICIAL_FROM = 4096  # the smallest window that LongBench names a length for
_OFFICIAL_SPARE = 500


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a model is asked: scores are compared only where it is the same."""

    label: str
    """Names the result and its folder."""
    protocol: str
    """Names the way of prompting and scoring."""
    num_total: int
    """Rows that the split has; where fewer are asked, the result is partial."""
    prompt_hash: str
    """Hash of all prompts as texts, before the tokenizer, and before they are cut."""
    fingerprint: str
    """Fingerprint of the rows."""
    num_cut: int = 0
    """Prompts whose middle was cut out."""
    prompt_limit: int | None = None
    """Tokens that they were cut to; None: none was."""
    shots: int = 0
    """Worked examples in the prompt."""
    scorer: str | None = None
    """What tells how near answers are to references, where that is a choice (TruthfulQA)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else of the set a score depends on: which prompts, which release of the rows."""


class TokenRows(Sequence[list[int]]):
    """Token ids of many prompts, four bytes each; a prompt becomes a list when it is asked for."""

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

    __hash__ = None  # type: ignore[assignment]  # as a list has none


@dataclass(frozen=True)
class PromptLimits:
    """How long the prompts of a set may be."""

    max_new_tokens: int
    """Tokens that an answer of the set may have."""
    window: int | None = None
    """Tokens that the model can hold; None: not known."""
    asked: int | None = None
    """Limit that the user has set."""
    official: bool = False
    """Whether the protocol has a limit of its own, and cuts the whole prompt before it becomes a chat."""

    @property
    def room(self) -> int | None:
        """What the model has room for beside an answer; None: any length."""
        return None if self.window is None else find_prompt_limit(self.window, self.max_new_tokens)

    @property
    def target(self) -> int | None:
        """The limit; None: there is none. The chat template's own tokens come on top of an official one."""
        usual = find_official_limit(self.window, self.max_new_tokens) if self.official and self.window else None
        first = self.asked if self.asked is not None else usual
        limits = [each for each in (first, self.room) if each is not None]
        return min(limits, default=None)


@dataclass(frozen=True)
class EncodedPrompts:
    """The prompts of a set."""

    rows: TokenRows
    kept: list[int]
    """Numbers of the examples that they are of."""
    refused: list[str]
    """Where and why the chat template refuses the others."""
    num_cut: int
    """Prompts that lost their middle."""


def find_official_limit(window: int, max_new_tokens: int) -> int:
    """Find the length at which LongBench cuts prompts (its config/model2maxlen.json, Bai et al. 2023).

    3500 of 4k positions, 7500 of 8k, 15500 of 16k, 31500 of 32k. It names none below 4k; there, and where 500 are too
    few, the set's own length of answers is left free.
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

    Args:
        encoder: Makes tokens of examples.
        examples: What is asked.
        places: Where each stands: a file's line, or a row of a split.
        limits: Of this set.
        as_chat: Whether prompts of an official protocol become a user's turn.
        drop: Leave out what the chat template refuses.

    Raises:
        DataError: The chat template refuses one, and `drop` is off; its place is named.
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
    """Encode a prompt, and tell whether it lost its middle; for the arguments see encode_prompts.

    Raises:
        RowError: The chat template refuses it.
    """
    if limits.official:
        return _encode_official(encoder, example, limits, as_chat)
    return _encode(encoder, example, limits.target)


def describe_prompt(example: Example, as_chat: bool) -> Any:
    """Give what is asked, as texts: the same for every tokenizer, and before anything is cut."""
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
    """Encode by the official truncation; where a chat's own tokens take the answer's room, it cuts more."""
    whole = encoder.encode_official(example, None, as_chat)
    target, room = limits.target, limits.room
    if target is None or len(whole) <= target:
        return whole, False
    ids = encoder.encode_official(example, target, as_chat)
    while room is not None and len(ids) > room and target > 1:
        target = max(target - (len(ids) - room), 1)
        ids = encoder.encode_official(example, target, as_chat)
    ids = ids if room is None else cut_middle(ids, room)
    return ids, ids != whole
