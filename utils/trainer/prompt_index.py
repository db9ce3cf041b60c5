"""Finds evaluation prompts that were trained on: a score of them says what was remembered."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

    from utils.evaluation.sets import EvaluationSet

logger = logging.getLogger(__name__)

_BATCH = 2000


def warn_of_known_prompts(train: Dataset, sets: Iterable[EvaluationSet]) -> dict[str, int]:
    """Count, for every set, the prompts that stand in the training rows too, and warn of them.

    Args:
        train: Rows with `input_ids` and `labels`; a prompt is what stands before the first trained token.
        sets: Their prompts as token ids.

    Returns:
        The number by label of the set; sets without such prompts are left out.
    """
    sets = list(sets)
    wanted = {hash(tuple(prompt)) for each in sets for prompt in each.prompts}
    known = wanted.intersection(_hash_prompts(train)) if wanted else set()
    counts = {each.label: sum(hash(tuple(prompt)) in known for prompt in each.prompts) for each in sets}
    for each in sets:
        if counts[each.label]:
            logger.warning(
                "%s: %d of %d prompts stand in the training rows too: their score says what was remembered",
                each.label, counts[each.label], len(each.prompts),
            )  # fmt: skip
    return {label: count for label, count in counts.items() if count}


def _hash_prompts(train: Dataset) -> Iterator[int]:
    for start in range(0, len(train), _BATCH):
        rows = train[start : start + _BATCH]
        for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
            trained = next((place for place, label in enumerate(labels) if label != -100), len(labels))
            yield hash(tuple(ids[:trained]))
