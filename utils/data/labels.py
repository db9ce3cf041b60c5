"""Reads the label column: names and order of the classes, and every label as the number that the model learns."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.core.errors import DataError
from utils.core.texts import RowError, shorten, shorten_list
from utils.data.dataset import ClassificationSet

logger = logging.getLogger(__name__)

UNLABELLED = -1
_MAX_CLASSES = 1_000_000
"""Larger numbers are names, not positions in a list."""

Reorder = Callable[[Mapping[str, str]], tuple[str, ...]]
"""Orders class names, each mapped to the location of its first row, as a model's ids do."""

_NUMBERS: dict[type, re.Pattern[str]] = {
    int: re.compile(r"[+-]?\d{1,18}"),
    float: re.compile(r"[+-]?(\d{1,40}(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?"),
}


@dataclass(frozen=True)
class LabelCoder:
    """Converts the data's labels to the model's."""

    names: tuple[str, ...]
    """Names in the order of the model's ids; empty for regression."""
    numbers: dict[Any, int]
    """Model id of each class, by its value in the data."""

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers to regress on."""
        return not self.names

    def encode(self, value: Any) -> int | float:
        """Encode a label; raises a RowError if it is missing, not a number, or of an unknown class."""
        if value in (None, "") and value not in self.numbers:
            raise RowError("has no label")
        return _read_number(value) if self.is_regression else self._find_class(value)

    def _find_class(self, value: Any) -> int:
        if value in self.numbers:
            return self.numbers[value]
        alike = [name for name in self.numbers if _normalize(name) == _normalize(value)]
        known = (
            f"it differs from {shorten(repr(alike[0]))} in case or spaces"
            if alike
            else f"the classes are {shorten_list(self.numbers)}"
        )
        raise RowError(f"the label {shorten(repr(value))} is of no class; {known}")


def type_labels(columns: Iterable[Sequence[Any]]) -> Callable[[Any], Any]:
    """Return a converter for labels in untyped files: to numbers if all labels are written as numbers."""
    written = [value for column in columns for value in column if value not in (None, "")]
    kind = next((kind for kind, form in _NUMBERS.items() if all(map(form.fullmatch, written))), str)
    return lambda value: kind(value) if value not in (None, "") else None


def build_label_coder(
    spec: ClassificationSet,
    places: Mapping[Any, str],
    named: Sequence[str] | None = None,
    reorder: Reorder = tuple,
) -> LabelCoder:
    """Determine the classes from the dataset's description or its labels.

    `places` maps every label to the location of its first row; `named` are the class names from the rows' own type,
    if any; `reorder` orders the names as an already fine-tuned checkpoint does.
    """
    if spec.num_labels == 1:
        return LabelCoder((), {})
    own = _class_names(spec, places, named)
    if twice := [name for name, count in Counter(own.values()).items() if count > 1]:
        both = " and ".join(
            f"{shorten(repr(value))} ({places[value]})" for value, name in own.items() if name == twice[0]
        )
        raise DataError(f"column {spec.label_column} holds {both}: write the class in one way")
    where = {name: places.get(value, spec.path) for value, name in own.items()}
    if spec.num_labels is not None and len(own) != spec.num_labels:
        found = shorten_list(f"{shorten(name)} ({place})" for name, place in where.items())
        raise DataError(
            f"dataset.num_labels is {spec.num_labels}, but column {spec.label_column} has {len(own)}: {found} "
            "(dataset.label_names names all classes)"
        )
    order = reorder(where)
    if not own or len(order) < 2:
        raise DataError(f"{spec.path}: column {spec.label_column} holds one class only: {shorten_list(own.values())}")
    return LabelCoder(order, {value: order.index(name) for value, name in own.items()})


def order_as_trained(trained: tuple[str, ...], label: str) -> Reorder:
    """Return a function that orders the classes of any rows, which may lack some, as a run learned them."""

    def reorder(names: Mapping[str, str]) -> tuple[str, ...]:
        spelling = {name.lower(): name for name in names}
        if twice := [name for name in names if spelling[name.lower()] != name]:
            ways = shorten_list(f"{name} ({names[name]})" for name in (twice[0], spelling[twice[0].lower()]))
            raise DataError(f"{label}: one class is written in two ways, {ways}; write it in one")
        strange = [spelling[name] for name in spelling if name not in map(str.lower, trained)]
        if strange:
            where = shorten_list(f"{name} ({names[name]})" for name in strange)
            raise DataError(f"{label}: the run never learned the classes {where}; it knows {shorten_list(trained)}")
        return tuple(spelling.get(name.lower(), name) for name in trained)

    return reorder


def warn_of_similar_labels(column: str, places: Mapping[Any, str]) -> None:
    """Warn of labels that differ only in case or spaces, since each counts as a class."""
    alike: dict[str, list[str]] = defaultdict(list)
    for value, place in places.items():
        if isinstance(value, str):
            alike[_normalize(value)].append(f"{shorten(repr(value))} ({place})")
    for found in alike.values():
        if len(found) > 1:
            logger.warning("column %s: %s differ only in case or spaces, and are separate classes; if they are "
                           "one class, spell it in one way", column, " and ".join(found))  # fmt: skip


def _class_names(spec: ClassificationSet, places: Mapping[Any, str], named: Sequence[str] | None) -> dict[Any, str]:
    """Map each value of the column to its class name, in index order."""
    present = [value for value in places if value not in (None, "", UNLABELLED) and not _is_nan(value)]
    is_text = any(isinstance(value, str) for value in present)
    named = spec.label_names or named
    if named:
        return {name: name for name in named} if is_text else dict(enumerate(named))
    if is_text or any(isinstance(value, bool) for value in present):
        return {value: str(value) for value in sorted(present, key=str)}
    if fraction := next((value for value in present if isinstance(value, float) and not value.is_integer()), None):
        raise DataError(
            f"{places[fraction]}: column {spec.label_column} holds a fraction, {fraction}; for regression set "
            "dataset.num_labels: 1"
        )
    ordered = sorted(present)
    # Numbers from 0 on are ids, so that a class without rows has an id too; other numbers are names.
    is_range = bool(ordered) and ordered[0] == 0 and ordered[-1] < _MAX_CLASSES
    count = spec.num_labels or (int(ordered[-1]) + 1 if is_range else 0)
    if ordered and ordered[0] >= 0 and ordered[-1] < count:
        return {number: str(number) for number in range(count)}
    if ordered:
        logger.info("labels start at %s: each value is taken as a class of that name", ordered[0])
    return {value: str(value) for value in ordered}


def _read_number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise RowError(f"the label {shorten(repr(value))} is not a number, as num_labels: 1 needs") from None
    if not math.isfinite(number):
        raise RowError(f"the label is {value}; take the row out or fix it")
    return number


def _normalize(value: Any) -> str:
    return " ".join(str(value).split()).casefold()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
