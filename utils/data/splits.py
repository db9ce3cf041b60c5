"""Which rows train and which validate, for both task types: a dataset's own split, or held-out rows."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import DataError
from utils.data.dataset import InstructionSet, SourceSet
from utils.data.reading import DataProblems, ReadSplit, read_split
from utils.data.rows import Rows, open_file, open_rows
from utils.data.sources import Source

logger = logging.getLogger(__name__)

_MAX_LOSS_SHARE = 0.05
"""Share of the rows that training may lose so that held-out rows come from as many groups as possible."""


def open_split(spec: SourceSet, split: str, subset: str | None = None) -> Rows | None:
    """Open a split of the dataset, or of another subset of it; None if there is no such split."""
    source = Source(spec.path, subset or spec.subset, spec.revision, spec.form)
    return open_rows(source, split) if spec.open_split is None else spec.open_split(source, split)


def open_train(spec: SourceSet) -> Rows:
    """Open the training rows."""
    assert spec.train_split is not None, f"{spec.path} cannot be trained on"
    if (rows := open_split(spec, spec.train_split)) is None:
        raise DataError(f"{spec.path}: no split called {spec.train_split}; set dataset.train_split or rename the file")
    return rows


def open_validation(spec: SourceSet, split: str) -> Rows | None:
    """Open a validation split, or the file of validation rows; None if there is none."""
    return open_split(spec, split) if spec.validation_path is None else open_file(spec.validation_path, spec.form)


def draw_rows(positions: Sequence[int], limit: int | None, seed: int) -> list[int]:
    """Sample up to `limit` rows with the seed, in their original order; None: all."""
    if limit is None or len(positions) <= limit:
        return list(positions)
    return sorted(random.Random(seed).sample(positions, limit))  # noqa: S311 - no secret is drawn


def hold_out(
    num_rows: int, size: float, seed: int, where: str, classes: Sequence[str] = (), groups: Sequence[bytes] = ()
) -> list[int]:
    """Choose rows to validate on, depending only on the seed and the rows.

    With classes, each class contributes its share and keeps at least one row. With groups, few rows are taken from each
    of many groups: as many groups as rows, unless that would cost training more than 5 % of its rows.

    Args:
        num_rows: Number of rows to choose from.
        size: Number of rows to choose or, below 1, share of the rows, rounded up.
        seed: Seed of the choice.
        where: Description of the rows for messages.
        classes: The class of every row as in the data, so that the choice does not depend on a model; (): no classes.
        groups: The group of every row; (): no groups.
    """
    wanted = math.ceil(size * num_rows) if size < 1 else int(size)
    members: dict[Any, list[int]] = defaultdict(list)
    for position in range(num_rows):
        members[groups[position] if groups else classes[position] if classes else ""].append(position)
    if wanted >= num_rows or (not groups and wanted > num_rows - len(members)):
        left = f"none of the {num_rows} rows" if wanted >= num_rows else "one of the classes without a row"
        raise DataError(f"{where}: dataset.validation_size leaves {left} to train on")
    return sorted(_draw_by_groups(members, wanted, seed) if groups else _draw_by_class(members, wanted, seed))


def _draw_by_class(members: dict[Any, list[int]], wanted: int, seed: int) -> list[int]:
    num_rows = sum(map(len, members.values()))
    # Largest-remainder method: the whole part of each class's share, then one more for the largest remainders.
    shares = {name: wanted * len(rows) / num_rows for name, rows in members.items()}
    counts = {name: min(int(share), len(members[name]) - 1) for name, share in shares.items()}
    while sum(counts.values()) < wanted:
        open_classes = [name for name in sorted(counts) if counts[name] < len(members[name]) - 1]
        counts[max(open_classes, key=lambda name: (shares[name] - counts[name], len(members[name])))] += 1
    draw = random.Random(seed)  # noqa: S311 - no secret is drawn
    return [position for name in sorted(members) for position in draw.sample(members[name], counts[name])]


def _draw_by_groups(members: dict[Any, list[int]], wanted: int, seed: int) -> list[int]:
    # Groups are ordered by a hash of seed and group, so that the order does not depend on other rows.
    order = sorted(members, key=lambda group: hashlib.blake2b(group, key=str(seed).encode()).digest())
    allowed = max(wanted, math.ceil(_MAX_LOSS_SHARE * sum(map(len, members.values()))))
    chosen: list[list[int]] = []
    num_removed = 0
    for group in order:
        if len(chosen) == wanted or num_removed >= allowed:
            break
        chosen.append(members[group])
        num_removed += len(members[group])
    # One row of each group, then a second of each, until there are enough.
    deepest = max(map(len, chosen), default=0)
    return [group[depth] for depth in range(deepest) for group in chosen if depth < len(group)][:wanted]


@dataclass(frozen=True)
class Splits:
    """Rows for CAUSAL_LM by use, as positions in the split that was read."""

    train: ReadSplit
    train_positions: list[int]
    """Positions before max_train_samples."""
    validation: ReadSplit | None
    validation_positions: list[int]
    """Positions before max_eval_samples."""
    num_related: int = 0
    """Number of rows that are unused because they share a group or prompt with a held-out row."""


def load_splits(spec: InstructionSet, section: InstructionSection, seed: int) -> Splits:
    """Read the training and validation rows of a resolved set."""
    found = DataProblems()
    train = validation = None
    with found.gather():
        train = read_split("train", open_train(spec), spec, section.on_bad_row)
    with found.gather():
        if (validation_rows := _open_validation(spec, section)) is not None:
            validation = read_split("validation", validation_rows, spec, section.on_bad_row)
    found.stop()
    assert train is not None, "else something was gathered"
    everything = list(range(len(train.good)))
    if validation is not None:
        if section.validation_size:
            logger.warning("dataset.validation_size has no effect: the set has a validation split")
        return Splits(train, everything, validation, list(range(len(validation.good))))
    if not spec.validation_size:
        return Splits(train, everything, None, [])
    where = f"{train.rows.place(0)} and further"
    held_out = hold_out(len(everything), spec.validation_size, seed, where, groups=train.groups)
    groups, prompts = ({marks[position] for position in held_out} for marks in (train.groups, train.prompts))
    kept = [each for each in everything if train.groups[each] not in groups and train.prompts[each] not in prompts]
    if not kept:
        raise DataError(
            f"{where}: dataset.validation_size leaves none of the {len(everything)} rows to train on; rows with the "
            f"same prompt stay together, and there are {len(set(train.prompts))} prompts"
        )
    return Splits(train, kept, train, held_out, len(everything) - len(kept) - len(held_out))


def _open_validation(spec: InstructionSet, section: InstructionSection) -> Rows | None:
    if spec.validation_path is None and spec.validation_split is None:
        return None
    rows = open_validation(spec, spec.validation_split or "")
    if rows is None and not spec.validation_size:
        if spec.validation_split != type(section).model_fields["validation_split"].default:
            raise DataError(f"{spec.path}: no split called {spec.validation_split} (dataset.validation_split)")
        logger.info("%s has no validation split; dataset.validation_size would hold rows out", spec.path)
    return rows


def count_shared(splits: Splits, train_positions: Sequence[int]) -> int:
    """Count validation rows whose prompt is also in the training rows."""
    if splits.validation is None:
        return 0
    seen = {splits.train.prompts[position] for position in train_positions}
    return sum(splits.validation.prompts[position] in seen for position in splits.validation_positions)
