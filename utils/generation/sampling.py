"""Draws tokens row by row, so that what a row gets depends neither on its batch nor on any global generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from utils.config.sections.generation import GenerationSection


def build_sampler(section: GenerationSection, rows: Sequence[int], seed: int) -> LogitsProcessorList:
    """Build the processors that choose the next tokens of a batch; empty at temperature 0, where the likeliest is.

    Args:
        section: Temperature, top_k and top_p.
        rows: Number of each row of the batch in the whole set; with the seed it decides what the row draws.
        seed: Any whole number from 0.
    """
    if section.temperature == 0:
        return LogitsProcessorList()
    warpers = [TopKLogitsWarper(section.top_k)] if section.top_k is not None else []
    warpers += [TopPLogitsWarper(section.top_p)] if section.top_p is not None else []
    draws = torch.stack([_draw(seed, row, section.max_new_tokens) for row in rows])
    return LogitsProcessorList([_Temperature(section.temperature), *warpers, _Choice(draws)])


def _draw(seed: int, row: int, number: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, row]).random(number))


class _Temperature(LogitsProcessor):  # type: ignore[misc]  # the base class is not typed
    """Divides logits; transformers' own is not used because it refuses small values that are fine here."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores / self._temperature


class _Choice(LogitsProcessor):  # type: ignore[misc]  # the base class is not typed
    """Leaves one token per row, chosen by inverting the distribution at a number drawn beforehand."""

    def __init__(self, draws: torch.Tensor) -> None:
        self._draws = draws
        self._step = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        shares = scores.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
        points = self._draws[:, self._step, None].to(shares.device) * shares[:, -1:]
        self._step += 1
        chosen = torch.searchsorted(shares, points, right=True).clamp_(max=shares.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter_(-1, chosen, 0.0)
