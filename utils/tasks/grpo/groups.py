"""Prompts answered in groups: their rows, their order, the rewards, and each answer's advantage over its group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from utils.core.errors import ConfigError, Problem
from utils.core.json_files import parse_json
from utils.core.texts import RowError
from utils.data.dataset import Example, Reference
from utils.data.encoding import MASKED, Encoded, ExampleEncoder
from utils.generation.judging import Judge, describe_asked
from utils.metrics.metric import load_metric

if TYPE_CHECKING:
    from datasets import Dataset

    from utils.tasks.grpo.section import GrpoSection


@dataclass(frozen=True)
class EncodedPrompt(Encoded):
    """A tokenized prompt, none of it trained on, and what is needed to reward answers to it."""

    reference: str = ""
    """Reference of the metrics, as JSON."""
    asked: str = ""
    """Input of the reward models besides the answer, as JSON."""

    @property
    def is_usable(self) -> bool:
        """Whether the prompt can be answered."""
        return bool(self.input_ids)

    def to_row(self) -> dict[str, Any]:
        """Return the row with its reference and input of the reward models."""
        return {**super().to_row(), "reference": self.reference, "asked": self.asked}


@dataclass(frozen=True)
class PromptEncoder(ExampleEncoder):
    """Encode prompts alone; those longer than max_length lose their middle unless rows are to be dropped."""

    COLUMNS: ClassVar[Mapping[str, type]] = {**ExampleEncoder.COLUMNS, "reference": str, "asked": str}

    def encode_many(self, examples: Sequence[Example]) -> list[list[Encoded] | RowError]:
        """Encode the prompts of examples."""
        return [self._encode(each) for each in examples]

    def _encode(self, example: Example) -> list[Encoded] | RowError:
        try:
            ids = self.encode_prompt(example)
            too_long = len(ids) > self.max_length and self.truncation in ("drop", "error")
            kept = ids if too_long else self.encode_prompt(example, self.max_length)
        except RowError as error:
            return error
        judged = [json.dumps(each, ensure_ascii=False) for each in (example.reference, describe_asked(example))]
        row = EncodedPrompt(kept, [MASKED] * len(kept), len(ids), prompt_cut=len(ids) - len(kept), too_long=too_long)
        return [replace(row, reference=judged[0], asked=judged[1])]


class RepeatedPrompts(TorchDataset[dict[str, Any]]):
    """Each prompt repeated: row n is an answer to prompt n // num_generations."""

    column_names: ClassVar[tuple[str, ...]] = ()
    """Empty: no column tells the length of a batch, which depends on the answers."""

    def __init__(self, rows: Dataset, num_generations: int) -> None:
        self._rows, self._times = rows, num_generations

    def __len__(self) -> int:
        return len(self._rows) * self._times

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._rows[number // self._times]
        judged = {name: parse_json(row[name]) for name in ("reference", "asked")}
        return {"input_ids": row["input_ids"], **judged, "number": number}


class GroupOrder(Sampler[int]):
    """Shuffled prompts; all answers to one are in one optimizer step, and each step is repeated num_iterations times.

    The order is a function of seed and epoch alone. Prompts that do not fill a step are left out of their epoch.
    """

    def __init__(self, num_prompts: int, num_generations: int, per_step: int, num_iterations: int, seed: int) -> None:
        self._num_prompts, self._times, self._per_step = num_prompts, num_generations, per_step
        self._iterations, self._seed, self._epoch = num_iterations, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next order."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_prompts // self._per_step * self._per_step * self._times * self._iterations

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self._epoch)
        order = torch.randperm(self._num_prompts, generator=generator).tolist()
        for start in range(0, self._num_prompts - self._per_step + 1, self._per_step):
            block = [prompt * self._times + each for prompt in order[start : start + self._per_step]
                     for each in range(self._times)]  # fmt: skip
            for _ in range(self._iterations):
                yield from block


class Rewards:
    """Metrics and reward models as rewards; `judges` are in the order of the section's models."""

    def __init__(self, section: GrpoSection, judges: Sequence[Judge] = ()) -> None:
        weights = {**section.rewards, **(section.reward_models if judges else {})}
        self.names = tuple(Path(name).name for name in weights)
        self._weights = np.array([*weights.values()])
        self._metrics = [load_metric(name) for name in section.rewards]
        self._judges = judges

    def require(self, references: Sequence[Reference]) -> None:
        """Check that the rows have what the metrics need.

        Raises:
            ConfigError: A metric cannot judge answers to these rows.
        """
        for metric in self._metrics:
            if not all(metric.takes(each) for each in references):
                raise ConfigError([Problem(f"{metric.name} cannot judge answers to these rows", "grpo.rewards")])

    def score(self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
        """Score answers, shape (n, rewards + 1): each reward, then their weighted sum; undefined ones are 0."""
        references, asked = ([row[name] for row in rows] for name in ("reference", "asked"))
        columns = [metric.score_rows(texts, references) for metric in self._metrics if metric.score_rows is not None]
        columns += [np.array(judge(asked, texts)) for judge in self._judges]
        scores: np.ndarray[Any, Any] = np.nan_to_num(np.stack(columns, axis=1))
        total: np.ndarray[Any, Any] = np.concatenate([scores, scores @ self._weights[:, None]], axis=1)
        return total


def compute_advantages(
    rewards: torch.Tensor, num_generations: int, scale: Literal["group", "batch", "none"]
) -> torch.Tensor:
    """Compute each answer's advantage over its group, as TRL does; rewards, shape (n,), are ordered by group."""
    groups = rewards.view(-1, num_generations)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if scale == "group":
        advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
    elif scale == "batch":
        advantages = advantages / (rewards.std() + 1e-4)
    return advantages.flatten()
