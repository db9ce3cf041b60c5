"""Encodes examples: prompt tokens, which are not trained on, then answer tokens and an end token, which are."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import DataError, ModelError
from utils.core.signals import interruption_requested, raise_if_interrupted
from utils.core.texts import RowError
from utils.data.chat import Segment
from utils.data.dataset import Example
from utils.data.drafts import Draft, Drafter
from utils.data.text_tokens import Exchange, cut_middle, fit_exchanges
from utils.data.tokenizing import fingerprint_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = "3"
"""Version of the encoding; part of the cache's fingerprint."""
MASKED = -100
"""Label of a token that is not trained on."""
_MIN_LENGTH = 8
SPLIT_TEXT = "cut into pieces that fit (dataset.split_long)"


@dataclass(frozen=True)
class Encoded:
    """One example as tokens."""

    input_ids: list[int]
    labels: list[int]
    """-100 for tokens that are not trained on."""
    full_length: int
    """Number of tokens before cutting."""
    prompt_cut: int = 0
    """Number of tokens cut from the prompt's middle."""
    answer_cut: int = 0
    """Number of tokens cut from the answer's end, including the end-of-text token."""
    exchanges_cut: int = 0
    """Number of later exchanges of a conversation that were dropped."""
    untrained_turns: int = 0
    """Number of assistant turns that cannot be trained on: empty, or not preceded by anything."""
    too_long: bool = False
    """Whether it exceeds the limit and is not cut: truncation is drop or error, or what must be kept would not fit."""
    notes: tuple[str, ...] = ()
    """Other changes to the row, each phrased to follow `3 rows`."""

    @property
    def num_trained(self) -> int:
        """Number of labels that are not -100; 0 if there is no answer to train on."""
        return len(self.labels) - self.labels.count(MASKED)

    @property
    def is_usable(self) -> bool:
        """Whether there is anything to train on."""
        return self.num_trained > 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.input_ids)

    def to_row(self) -> dict[str, Any]:
        """Return the row to store; `length` is the number of tokens."""
        return {"input_ids": self.input_ids, "labels": self.labels, "length": len(self.input_ids)}


@dataclass(frozen=True)
class ExampleEncoder(Drafter):
    """Encodes examples in the same way for training, evaluation and inference."""

    COLUMNS: ClassVar[Mapping[str, type]] = {"input_ids": list, "labels": list, "length": int}
    """Columns of the rows and their types: integers (list), a number (int, float) or text (str)."""

    def __post_init__(self) -> None:
        if self.max_length < _MIN_LENGTH:
            raise DataError(f"{self.length_key}: {self.max_length} leaves no room; set {_MIN_LENGTH} at least")

    @classmethod
    def build(
        cls, tokenizer: PreTrainedTokenizerBase, section: InstructionSection, max_length: int, **others: Any
    ) -> ExampleEncoder:
        """Build the encoder of a run from its `dataset:` section; `others` are additional fields."""
        return cls(
            tokenizer,
            max_length,
            truncation=section.truncation,
            as_chat=section.as_chat,
            system_prompt=section.system_prompt,
            split_long=section.split_long,
            escape_special=section.special_tokens_in_text == "escape",
            **others,
        )

    def encode(self, example: Example) -> Encoded:
        """Encode one example with its answer; if it becomes several rows, return the last."""
        [encoded] = self.encode_many([example])
        if isinstance(encoded, RowError):
            raise encoded
        return encoded[-1]

    def encode_many(self, examples: Sequence[Example]) -> list[list[Encoded] | RowError]:
        """Encode examples together, which is much faster; a RowError explains why a row is unusable.

        An example usually becomes one row. A long text may become several, and so may a conversation whose earlier
        turns the chat template renders differently later.
        """
        drafts = [self.draft(example) for example in _until_interrupted(examples)]
        # One tokenizer call for all texts; the exchanges are returned in the drafts' order.
        exchanges = iter(self._encode_drafts([each for good in drafts if isinstance(good, list) for each in good]))
        return [
            good
            if isinstance(good, RowError)
            else [row for draft in good for row in self._assemble(draft, next(exchanges))]
            for good in drafts
        ]

    def encode_prompt(self, example: Example, max_length: int | None = None) -> list[int]:
        """Encode the prompt that an answer is generated from, with the same tokens as the prompt part of `encode`.

        The answer, or the final assistant turn, is ignored. If the prompt exceeds max_length tokens, its middle is cut.
        """
        draft = self.draft_prompt(example)
        [exchanges] = self._encode_drafts([draft])
        ids = [index for exchange in exchanges for part in (exchange.prompt, exchange.answer) for index in part]
        if max_length is None or len(ids) <= max_length:
            return ids
        cut = self._cut_context(draft, exchanges[0], max_length) if draft.context else None
        return cut_middle(ids, max_length) if cut is None else cut.prompt

    def encode_official(self, example: Example, max_length: int | None, as_chat: bool) -> list[int]:
        """Encode a prompt as LongBench's own code does, cutting the middle of the whole prompt.

        The first and the last half of max_length tokens are kept (None: all). The cut prompt is decoded before it
        becomes a user turn, unless it is a text to be continued, so the turn's own tokens come on top.
        """
        as_chat = as_chat and not example.plain
        example, _ = self.resolve_special(example)
        text = example.user_turn or example.prompt if as_chat else example.prompt
        ids = self._encode_text(text)
        if max_length is not None and len(ids) > max_length:
            half = max_length // 2
            halves = (ids[:half], ids[len(ids) - half :])
            text = "".join(self.tokenizer.decode(each, skip_special_tokens=True) for each in halves)
            text = self.texts.escape(text) if self.escape_special else text
            ids = self._encode_text(text)
        return self.texts.encode_many([self.chat.open_turn(text)], [False])[0] if as_chat else ids

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that affects how examples are encoded."""
        settings = [
            VERSION, fingerprint_tokenizer(self.tokenizer), self.tokenizer.chat_template, self.max_length,
            self.truncation, self.as_chat, self.system_prompt, self.train_on_prompt, self.split_long,
            self.escape_special, list(self.COLUMNS),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def _encode_drafts(self, drafts: list[Draft]) -> list[list[Exchange]]:
        """Encode all segments' texts together."""
        segments = [each for draft in drafts for each in draft.segments]
        continues = [number > 0 for draft in drafts for number in range(len(draft.segments))]
        prompts = self.texts.encode_many([each.prompt for each in segments], continues)
        answers = self.texts.encode_many([each.answer for each in segments], [True] * len(segments))
        pairs = iter(zip(prompts, answers, strict=True))
        return [self._build_exchanges(draft, [next(pairs) for _ in draft.segments]) for draft in drafts]

    def _build_exchanges(self, draft: Draft, encoded: list[tuple[list[int], list[int]]]) -> list[Exchange]:
        """Add the beginning-of-text and end-of-text tokens; text between turns becomes part of the next prompt."""
        if not draft.chat:
            [(prompt, answer)], [segment] = encoded, draft.segments
            if prompt or answer[: len(self.texts.opening)] != self.texts.opening:
                prompt = self.texts.open(prompt)
            answer = answer if draft.ended else [*answer, self.texts.eos]
            return [Exchange(prompt, answer if segment.trained else [], segment.trained)]
        exchanges = []
        rest: list[int] = []
        for (prompt, answer), segment in zip(encoded, draft.segments, strict=True):
            end = self._find_end(answer, segment) if segment.answer else 0
            exchanges.append(Exchange([*rest, *prompt], answer[:end], segment.trained))
            rest = answer[end:]
        return exchanges

    def _encode_text(self, text: str) -> list[int]:
        """Encode a text with the beginning-of-text token."""
        return self.texts.open(self.texts.encode_many([text], [False])[0])

    def _cut_context(self, draft: Draft, exchange: Exchange, max_length: int) -> Exchange | None:
        """Cut the context's middle out of the first prompt; None if everything else is too long."""
        opening = 0 if draft.chat else len(self.texts.opening)
        room = max_length - len(exchange.answer) - opening
        ids = self.texts.encode_cut(draft.segments[0].prompt, draft.context, room)
        if ids is None:
            return None
        return Exchange(ids if draft.chat else self.texts.open(ids), exchange.answer, exchange.trained)

    def _find_end(self, answer: list[int], segment: Segment) -> int:
        """Return the position after an assistant turn's end-of-turn token."""
        ends = (self.chat.end_of_turn, self.chat.end_of_call)
        token = next((end for end in ends if end in answer), None)
        if token is None:
            raise ModelError(
                "the chat template ends an assistant's turn without "
                f"{self.tokenizer.convert_ids_to_tokens(ends[0])}: {segment.answer[-30:]!r}; use another "
                "model.chat_template"
            )
        return len(answer) - answer[::-1].index(token)

    def _assemble(self, draft: Draft, exchanges: list[Exchange]) -> list[Encoded]:
        """Concatenate exchanges, with labels on the trained answers, and cut them to length."""
        wanted = _merge_untrained(exchanges)
        full_length = sum(len(each) for each in wanted)
        is_text = not draft.chat and not draft.segments[0].prompt
        if is_text and self.split_long and wanted and full_length > self.max_length:
            return self._split(wanted[0], draft.notes)
        too_long = full_length > self.max_length and self.truncation in ("drop", "error")
        if draft.context and len(wanted) == 1 and full_length > self.max_length and not too_long:
            cut = self._cut_context(draft, wanted[0], self.max_length)
            too_long, wanted = cut is None, wanted if cut is None else [cut]
        # A row that is too long is counted uncut, and then left out.
        fitted = fit_exchanges(wanted, full_length if too_long else self.max_length)
        too_long |= fitted.answer_cut > 0 and self.truncation == "keep_answer" and not is_text
        ids: list[int] = []
        labels: list[int] = []
        for each in fitted.exchanges:
            ids += each.prompt + each.answer
            labels += (each.prompt if self.train_on_prompt else [MASKED] * len(each.prompt)) + each.answer
        return [
            Encoded(
                ids,
                labels,
                full_length=full_length,
                prompt_cut=fitted.prompt_cut if too_long or not draft.context else full_length - len(ids),
                answer_cut=fitted.answer_cut,
                exchanges_cut=fitted.exchanges_cut,
                untrained_turns=draft.untrained_turns,
                too_long=too_long,
                notes=draft.notes,
            )
        ]

    def _split(self, text: Exchange, notes: tuple[str, ...]) -> list[Encoded]:
        """Split a text into pieces of similar length, each with the beginning-of-text token."""
        opening, whole = self.texts.opening, text.prompt + text.answer
        inner = whole[len(opening) :]
        num_pieces = math.ceil(len(inner) / (self.max_length - len(opening)))
        bounds = [len(inner) * number // num_pieces for number in range(num_pieces + 1)]
        pieces = [[*opening, *inner[first:last]] for first, last in pairwise(bounds)]
        masked = len(text.prompt)  # the beginning-of-text token, unless the text itself starts with it
        return [
            Encoded(
                ids,
                ids if self.train_on_prompt else [MASKED] * masked + ids[masked:],
                full_length=len(ids),
                notes=(*notes, SPLIT_TEXT) if number == num_pieces else (),
            )
            for number, ids in enumerate(pieces, start=1)
        ]


def _merge_untrained(exchanges: list[Exchange]) -> list[Exchange]:
    """Merge every untrained turn into the next prompt, dropping turns after the last trained one."""
    merged = []
    before: list[int] = []
    for each in exchanges:
        if each.trained:
            merged.append(Exchange(before + each.prompt, each.answer, True))
            before = []
        else:
            before = before + each.prompt + each.answer
    return merged


def _until_interrupted(examples: Iterable[Example]) -> Iterator[Example]:
    """Yield examples until the run is asked to stop, since a slow template may take seconds for each."""
    for example in examples:
        if interruption_requested():
            raise_if_interrupted()
        yield example
