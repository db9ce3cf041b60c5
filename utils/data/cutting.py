"""Cuts an example to length so that its answer stays."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Later exchanges left out."""


def fit_exchanges(exchanges: list[Exchange], max_length: int) -> Fitted:
    """Cut a conversation, or a prompt with its answer.

    Later exchanges go first. Then the first prompt loses its middle, down to a quarter of the length at most; only
    when the answer still does not fit is its end cut off.

    Args:
        exchanges: In their order.
        max_length: Tokens that all of them may have.
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
