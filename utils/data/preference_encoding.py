"""Encodes preference pairs, whose sides get the same prompt tokens, and labelled answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from utils.core.texts import RowError
from utils.data.dataset import Example
from utils.data.encoding import MASKED, Encoded, ExampleEncoder
from utils.data.preference import SIDES
from utils.data.text_tokens import cut_middle


@dataclass(frozen=True)
class EncodedPair(Encoded):
    """A pair as tokens: the chosen side in the inherited fields, the rejected side in its own."""

    rejected_ids: tuple[int, ...] = ()
    rejected_labels: tuple[int, ...] = ()
    margin: float | None = None

    @property
    def num_trained(self) -> int:
        """Number of trained tokens of both sides; 0 if either has none."""
        sides = [sum(label != MASKED for label in labels) for labels in (self.labels, self.rejected_labels)]
        return sum(sides) if all(sides) else 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens of both sides."""
        return len(self.input_ids) + len(self.rejected_ids)

    def to_row(self) -> dict[str, Any]:
        """Return the row; `length` is that of the longer side."""
        length = max(len(self.input_ids), len(self.rejected_ids))
        other = {"rejected_input_ids": self.rejected_ids, "rejected_labels": self.rejected_labels}
        margin = {} if self.margin is None else {"margin": self.margin}
        return {**super().to_row(), **other, **margin, "length": length}


@dataclass(frozen=True)
class PairEncoder(ExampleEncoder):
    """Encodes both sides of pairs with the same prompt: if one side's prompt is cut, so is the other's."""

    COLUMNS: ClassVar[Mapping[str, type]] = {
        **ExampleEncoder.COLUMNS, "rejected_input_ids": list, "rejected_labels": list,
    }  # fmt: skip

    def encode_many(self, examples: Sequence[Example]) -> list[list[Encoded] | RowError]:
        """Encode pairs together; other examples, such as prompts to answer, are encoded as usual."""
        sides = [side for each in examples for side in (each, each.rejected) if side is not None]
        encoded = iter(super().encode_many(sides))
        return [
            next(encoded) if each.rejected is None else _pair(next(encoded), next(encoded), each.margin)
            for each in examples
        ]


@dataclass(frozen=True)
class MarginEncoder(PairEncoder):
    """Encodes pairs with their margins."""

    COLUMNS: ClassVar[Mapping[str, type]] = {**PairEncoder.COLUMNS, "margin": float}


@dataclass(frozen=True)
class EncodedLabelled(Encoded):
    """A labelled answer as tokens."""

    is_good: bool = True

    def to_row(self) -> dict[str, Any]:
        """Return the row; `is_good` is 0 or 1."""
        return {**super().to_row(), "is_good": int(self.is_good)}


@dataclass(frozen=True)
class LabelledEncoder(ExampleEncoder):
    """Encodes answers labelled good or bad."""

    COLUMNS: ClassVar[Mapping[str, type]] = {**ExampleEncoder.COLUMNS, "is_good": int}

    def encode_many(self, examples: Sequence[Example]) -> list[list[Encoded] | RowError]:
        """Encode answers together; of an answer that becomes several rows, the last counts."""
        return [
            found if isinstance(found, RowError) or example.is_good is None else [_label(found[-1], example.is_good)]
            for example, found in zip(examples, super().encode_many(examples), strict=True)
        ]


def find_prompt(labels: Sequence[int]) -> int:
    """Return the number of tokens before the first trained one."""
    return next((place for place, label in enumerate(labels) if label != MASKED), len(labels))


def _pair(
    one: list[Encoded] | RowError, other: list[Encoded] | RowError, margin: float | None
) -> list[Encoded] | RowError:
    if isinstance(one, RowError):
        return one
    if isinstance(other, RowError):
        return other
    chosen, rejected = _align(one[-1], other[-1])
    notes = [f"with the end cut off the {name} answer" for name, side in zip(SIDES, (chosen, rejected), strict=True)
             if side.answer_cut]  # fmt: skip
    if chosen.input_ids == rejected.input_ids:
        notes.append("whose chosen and rejected answers are equal: nothing is learned from them")
    most = {name: max(getattr(chosen, name), getattr(rejected, name))
            for name in ("full_length", "prompt_cut", "answer_cut", "exchanges_cut", "untrained_turns")}  # fmt: skip
    pair = EncodedPair(
        chosen.input_ids,
        chosen.labels,
        **most,
        too_long=chosen.too_long or rejected.too_long,
        notes=tuple(dict.fromkeys([*chosen.notes, *rejected.notes, *notes])),
        rejected_ids=tuple(rejected.input_ids),
        rejected_labels=tuple(rejected.labels),
        margin=margin,
    )
    return [pair]


def _align(chosen: Encoded, rejected: Encoded) -> tuple[Encoded, Encoded]:
    """Cut the longer prompt to the shorter one, so that both answers have the same prompt."""
    if not (chosen.prompt_cut or rejected.prompt_cut) or chosen.too_long or rejected.too_long:
        return chosen, rejected
    prompts = [find_prompt(each.labels) for each in (chosen, rejected)]
    least = min(prompts)
    chosen, rejected = (
        each if length == least else replace(
            each,
            input_ids=cut_middle(each.input_ids[:length], least) + each.input_ids[length:],
            labels=each.labels[length - least :],
            prompt_cut=each.prompt_cut + length - least,
        )
        for each, length in zip((chosen, rejected), prompts, strict=True)
    )  # fmt: skip
    return chosen, rejected


def _label(encoded: Encoded, is_good: bool) -> Encoded:
    notes = (*encoded.notes, f"labelled {'good' if is_good else 'bad'}")
    return EncodedLabelled(**{**vars(encoded), "notes": notes, "is_good": is_good})
