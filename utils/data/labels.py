"""Reads the label column: names and order of the classes, and every label as the number the model learns."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.data.classification_set import ClassificationSet
from utils.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

UNLABELLED = -1


@dataclass(frozen=True)
class LabelCoder:
    """Turns the data's labels into the model's, and back into names."""

    names: tuple[str, ...]
    """Names in the order of the model's ids; empty for regression."""
    numbers: dict[Any, int]
    """The data's own value of each class, and its id."""

    @property
    def is_regression(self) -> bool:
        """Tell whether labels are numbers to regress on."""
        return not self.names

    def encode(self, values: Sequence[Any], where: str) -> list[int] | list[float]:
        """Encode a column.

        Args:
            values: The column as read.
            where: Split and column, for messages.

        Raises:
            DataError: A label is missing, no number, or of no known class; the first such row is named.
        """
        return self._numbers(values, where) if self.is_regression else self._classes(values, where)

    def _numbers(self, values: Sequence[Any], where: str) -> list[float]:
        numbers = []
        for row, value in enumerate(values):
            try:
                numbers.append(float(value))
            except (TypeError, ValueError):
                raise DataError(f"{where}, row {row}: {value!r} is not a number, as num_labels: 1 needs") from None
            if not math.isfinite(numbers[-1]):
                raise DataError(f"{where}, row {row}: the label is {value}; take the row out or mend it")
        return numbers

    def _classes(self, values: Sequence[Any], where: str) -> list[int]:
        unknown = {value: row for row, value in reversed(list(enumerate(values))) if value not in self.numbers}
        if unknown:
            first = ", ".join(
                f"{value!r} (row {row})" for value, row in sorted(unknown.items(), key=lambda i: i[1])[:5]
            )
            known = ", ".join(str(value) for value in self.numbers)
            raise DataError(f"{where}: {len(unknown)} label(s) out of range: {first}; the classes are {known}")
        return [self.numbers[value] for value in values]


def build_label_coder(
    spec: ClassificationSet, labelled: Dataset, reorder: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> LabelCoder:
    """Work out the classes from the set's description, else from its labelled rows.

    Args:
        spec: The set.
        labelled: Rows whose labels show the classes: the training split where there is one.
        reorder: Gives the names in the order that an already fine-tuned checkpoint uses.

    Raises:
        DataError: The labels do not fit num_labels or label_names.
    """
    if spec.num_labels == 1:
        return LabelCoder((), {})
    values = labelled[spec.label_column][:]
    own = _class_names(spec, labelled, values)
    if spec.num_labels is not None and len(own) != spec.num_labels:
        found = ", ".join(map(str, own))
        raise DataError(
            f"dataset.num_labels is {spec.num_labels}, but column {spec.label_column} has {len(own)}: {found} "
            "(dataset.label_names names all classes)"
        )
    if len(own) < 2:
        raise DataError(f"column {spec.label_column} holds one class only: {', '.join(own.values()) or 'none'}")
    names = tuple(str(name) for name in own.values())
    order = reorder(names)
    numbers = {value: order.index(str(name)) for value, name in own.items()}
    return LabelCoder(order, numbers)


def _class_names(spec: ClassificationSet, labelled: Dataset, values: list[Any]) -> dict[Any, str]:
    """Map each value of the column to its class's name, in index order."""
    present = {value for value in values if value not in (None, UNLABELLED) and not _is_nan(value)}
    is_text = any(isinstance(value, str) for value in present)
    named = spec.label_names or getattr(labelled.features[spec.label_column], "names", None)
    if named:
        return {name: name for name in named} if is_text else dict(enumerate(named))
    if is_text or any(isinstance(value, bool) for value in present):
        return {value: str(value) for value in sorted(present, key=str)}
    if any(isinstance(value, float) and not value.is_integer() for value in present):
        raise DataError(f"column {spec.label_column} holds fractions; for regression set dataset.num_labels: 1")
    ordered = sorted(present)
    count = spec.num_labels or (int(ordered[-1]) + 1 if ordered and ordered[0] == 0 else 0)
    if ordered and ordered[0] >= 0 and ordered[-1] < count:
        return {number: str(number) for number in range(count)}
    if ordered:
        logger.info("labels start at %s: each value is taken as a class of that name", ordered[0])
    return {value: str(value) for value in ordered}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
