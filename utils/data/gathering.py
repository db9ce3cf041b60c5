"""Gathers what is wrong with rows, so that one report has all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from utils.core.errors import DataError


class DataProblems:
    """Problems of rows that do not follow from each other; `stop` raises them together."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep a DataError for later; what follows in the block is passed over."""
        try:
            yield
        except DataError as error:
            self._sentences |= dict.fromkeys(str(error).splitlines())

    def stop(self) -> None:
        """Stop where anything was gathered.

        Raises:
            DataError: With a line for each problem.
        """
        if self._sentences:
            raise DataError("\n".join(self._sentences))
