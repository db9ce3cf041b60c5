"""Which rows are trained on and which validate: a split of the set's own, or rows held out by groups."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import DataError
from utils.data.dataset import InstructionSet, count_held_out
from utils.data.gathering import DataProblems
from utils.data.reading import ReadSplit, read_split
from utils.data.rows import Rows, open_file, open_rows
from utils.data.sources import Source

logger = logging.getLogger(__name__)

_LARGEST_LOSS = 0.05
"""Share of the rows that may leave training so that held-out rows come from as many groups as possible."""


@dataclass(frozen=True)
class Splits:
    """Rows by use, as positions in the split that was read."""

    train: ReadSplit
    train_positions: list[int]
    """Before max_train_samples."""
    validation: ReadSplit | None
    validation_positions: list[int]
    """Before max_eval_samples."""
    num_related: int = 0
    """Rows neither trained on nor evaluated, because they are of a held-out row's group or have its prompt."""


def load_splits(spec: InstructionSet, section: InstructionSection, seed: int) -> Splits:
    """Read the training rows and the validation rows.

    Args:
        spec: Settled.
        section: Says what happens to bad rows.
        seed: Draws the held-out rows; they depend on nothing else but the rows themselves.

    Raises:
        DataError: A split is missing or cannot be read.
    """
    found = DataProblems()
    train = validation = None
    with found.gather():
        train = read_split("train", _open_train(spec), spec, section.on_bad_row)
    with found.gather():
        if (validation_rows := _open_validation(spec, section)) is not None:
            validation = read_split("validation", validation_rows, spec, section.on_bad_row)
    found.stop()
    assert train is not None, "else something was gathered"
    if validation is not None:
        if section.validation_size:
            logger.warning("dataset.validation_size has no effect: the set has a validation split")
        return Splits(train, list(range(len(train.good))), validation, list(range(len(validation.good))))
    if not spec.validation_size:
        return Splits(train, list(range(len(train.good))), None, [])
    return _hold_out(train, spec.validation_size, seed)


def _open_train(spec: InstructionSet) -> Rows:
    if (rows := open_split(spec, spec.train_split)) is None:
        raise DataError(f"{spec.path}: no split called {spec.train_split}; set dataset.train_split or rename the file")
    return rows


def open_split(spec: InstructionSet, split: str) -> Rows | None:
    """Open a split of the set; None when there is none of this name."""
    if spec.open_split is not None:
        return spec.open_split(split)
    return open_rows(Source(spec.path, spec.subset, spec.revision, spec.form), split)


def draw_rows(positions: Sequence[int], limit: int | None, seed: int) -> list[int]:
    """Draw so many rows by the seed, in their own order; None: all."""
    if limit is None or len(positions) <= limit:
        return list(positions)
    return sorted(random.Random(seed).sample(positions, limit))  # noqa: S311 - no secret is drawn


def count_shared(splits: Splits, train_positions: Sequence[int]) -> int:
    """Count validation rows whose prompt stands in the training rows too."""
    if splits.validation is None:
        return 0
    seen = {splits.train.prompts[position] for position in train_positions}
    return sum(splits.validation.prompts[position] in seen for position in splits.validation_positions)


def _open_validation(spec: InstructionSet, section: InstructionSection) -> Rows | None:
    if spec.validation_path is not None:
        return open_file(spec.validation_path, spec.form)
    if spec.validation_split is None:
        return None
    rows = open_split(spec, spec.validation_split)
    if rows is None and not spec.validation_size:
        usual = type(section).model_fields["validation_split"].default
        if spec.validation_split != usual:
            raise DataError(f"{spec.path}: no split called {spec.validation_split} (dataset.validation_split)")
        logger.info("%s has no validation split; dataset.validation_size would hold rows out", spec.path)
    return rows


def _hold_out(train: ReadSplit, size: float, seed: int) -> Splits:
    """Take validation rows out of the training rows, and with them all rows of their groups or of equal prompt.

    Few rows are taken from each of many groups: as many groups as rows, unless that would cost training more than
    5 % of its rows. A group's turn comes by a hash of the seed and its text, so it does not depend on other rows.
    """
    num_rows = len(train.good)
    wanted = count_held_out(size, num_rows)
    members: dict[bytes, list[int]] = defaultdict(list)
    for position, group in enumerate(train.groups):
        members[group].append(position)
    order = sorted(members, key=lambda group: hashlib.blake2b(group, key=str(seed).encode()).digest())
    allowed = max(wanted, math.ceil(_LARGEST_LOSS * num_rows))
    chosen: list[bytes] = []
    num_removed = 0
    for group in order:
        if len(chosen) == wanted or num_removed >= allowed:
            break
        chosen.append(group)
        num_removed += len(members[group])
    held_out = _take_in_turn([members[group] for group in chosen], wanted)
    removed_groups, prompts = set(chosen), {train.prompts[position] for position in held_out}
    kept = [
        position
        for position in range(num_rows)
        if train.groups[position] not in removed_groups and train.prompts[position] not in prompts
    ]
    if not kept or len(held_out) < wanted:
        raise DataError(
            f"{train.rows.place(0)} and further: dataset.validation_size leaves no row of {num_rows} to train on"
        )
    leaked = prompts & {train.prompts[position] for position in kept}
    assert not leaked, f"{len(leaked)} validation prompts stand in the training rows"
    return Splits(train, kept, train, held_out, num_rows - len(kept) - len(held_out))


def _take_in_turn(groups: list[list[int]], wanted: int) -> list[int]:
    """Take one row of each group, then a second of each, until there are enough."""
    deepest = max(map(len, groups), default=0)
    taken = [group[depth] for depth in range(deepest) for group in groups if depth < len(group)]
    return sorted(taken[:wanted])
