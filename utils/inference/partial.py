"""The file of finished answers: appended batch by batch, so that a kill loses one batch at most."""

from __future__ import annotations

import heapq
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from utils.core.errors import UserError
from utils.core.json_files import NotJsonError, is_json, parse_json
from utils.core.locks import try_lock
from utils.core.replace_file import replace_file, utc_timestamp

logger = logging.getLogger(__name__)

_LINE = re.compile(rb'\{"row": (\d{1,18}), "result": (\{.*\})\}\n', re.DOTALL)


class PartialFile:
    """Answers in the order of writing, after a line that identifies their questions.

    Memory does not grow with the number of rows, as rows are answered window by window: only the numbers ahead of a
    missing one are kept.

    `identity` has all that determines the answers, by part; a file of another identity is set aside. None: unknown
    (standard input), so the file always starts anew.

    Raises:
        UserError: Another call is writing it, or it cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any] | None) -> None:
        self.path = path
        self._done = _Numbers()
        with self._explain():
            self._file = _open_alone(path)
            self._continue(identity)
        self.num_kept = self._done.count
        """Number of rows that an earlier call answered."""

    def __contains__(self, number: int) -> bool:
        return number in self._done

    def add(self, results: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Append the answers of a batch that are new; a full disk loses nothing written before."""
        new = [(number, result) for number, result in results if number not in self._done]
        with self._explain():
            self._file.write(b"".join(b'{"row": %d, "result": %b}\n' % (each, dump(result)) for each, result in new))
            self._file.flush()
        for number, _ in new:
            self._done.add(number)

    def results(self) -> Iterator[bytes]:
        """Yield every answer as JSON, in the order of the rows."""
        # Within a window answers are in any order: those ahead of a missing one wait, at most a window.
        expected = 0
        ahead: list[tuple[int, bytes]] = []
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                found = _LINE.fullmatch(line)
                assert found, f"got {line[:80]!r}"
                heapq.heappush(ahead, (int(found[1]), found[2]))
                while ahead and ahead[0][0] == expected:
                    yield heapq.heappop(ahead)[1]
                    expected += 1
        assert not ahead, f"row {expected} is missing"

    def close(self) -> None:
        """Close the file, and keep it."""
        with suppress(OSError):  # a full disk was reported when writing
            self._file.close()

    def remove(self) -> None:
        """Remove the file, once its answers are written elsewhere."""
        self.path.unlink()
        self._file.close()

    @contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.path}: cannot be written: {reason}; the same command continues from here") from None

    def _continue(self, identity: Mapping[str, Any] | None) -> None:
        """Continue after an earlier call's answers, or start anew with a warning."""
        self._file.seek(0)
        first = self._file.readline()
        before = _read_identity(first)
        if first and (before is None or identity is None or before != identity):
            if self._file.readline():
                self._set_aside(before, identity)
            self._file.truncate(0)
            first = b""
        if not first:
            self._file.write(json.dumps({"version": 1, "identity": identity}).encode() + b"\n")
            self._file.flush()
            return
        # A kill may have cut the last line: the rest after the last complete line is removed and answered again.
        end = len(first)
        for line in self._file:
            found = _LINE.fullmatch(line)
            if found is None or not is_json(found[2]):
                logger.warning("%s: its last line was partially written and is removed", self.path)
                break
            self._done.add(int(found[1]))
            end += len(line)
        self._file.truncate(end)
        if self._done.count:
            logger.info("%s: continuing after %d answers of an earlier call", self.path, self._done.count)

    def _set_aside(self, before: Any, identity: Mapping[str, Any] | None) -> None:
        changed = [key for key in identity or {} if before and before.get(key) != (identity or {})[key]]
        whose = f"of another {' and another '.join(changed)}" if changed else "perhaps of something else"
        old = self.path.with_name(f"{self.path.name.removesuffix('.jsonl')}.old_{utc_timestamp()}.jsonl")
        with replace_file(old) as beside, beside.open("wb") as kept, self.path.open("rb") as file:
            shutil.copyfileobj(file, kept)
        logger.warning(
            "%s: started anew, since the answers in it are %s; they are kept in %s", self.path, whose, old.name
        )


def dump(result: Mapping[str, Any]) -> bytes:
    """Encode an answer as one line of JSON; numbers that are not finite become null, lone surrogates escapes."""
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_without_infinity(result), ensure_ascii=False, allow_nan=False, default=str)
    return text.encode("utf-8", errors="backslashreplace")


def _open_alone(path: Path) -> IO[bytes]:
    """Open a file that no other call is writing and that is not a link, whose target would be truncated."""
    while True:
        if path.is_symlink():
            raise UserError(
                f"{path}: is a link, and no answers are written through it; remove it, or name another output"
            )
        file = path.open("ab+")
        if not try_lock(file):
            file.close()
            raise UserError(f"{path}: another call is writing it; wait for its end, or name another output")
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # the other call ended and removed the file in the meantime


class _Numbers:
    """A set of numbers that is filled from 0 up."""

    def __init__(self) -> None:
        self._next = 0
        self._above: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number < self._next or number in self._above

    @property
    def count(self) -> int:
        return self._next + len(self._above)

    def add(self, number: int) -> None:
        self._above.add(number)
        while self._next in self._above:
            self._above.remove(self._next)
            self._next += 1


def _read_identity(line: bytes) -> Any:
    if not line.endswith(b"\n"):
        return None
    try:
        head = parse_json(line)
    except NotJsonError:
        return None
    return head.get("identity") if isinstance(head, dict) else None


def _without_infinity(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_infinity(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
