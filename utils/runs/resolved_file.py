"""Reads and writes a run's run.yaml, without which whole checkpoints cannot be resumed: its copies stand in for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from utils.config.run_config import flatten
from utils.config.yaml_text import read_document
from utils.core.errors import ConfigError, UserError
from utils.results.json_file import replace_file
from utils.run_config.older_names import OlderNames
from utils.trainer.checkpoint_files import RUN_COPY, list_checkpoints

RUN_FILE = "run.yaml"

logger = logging.getLogger(__name__)


def write_resolved(path: Path, text: str) -> None:
    """Write a run's run.yaml: whoever reads it, also after a power cut, sees the old one or the new one."""
    with replace_file(path / RUN_FILE) as beside:
        beside.write_text(text, encoding="utf-8")


def holds_resolved(path: Path) -> bool:
    """Tell whether a folder is a run's."""
    return any(each.is_file() for each in (path / RUN_FILE, *_list_copies(path)))


def read_resolved(path: Path, mend: bool = False) -> dict[str, Any] | None:
    """Read a run's configuration; where run.yaml is gone or cut off, the newest copy that the run itself has made.

    Args:
        path: The run's folder.
        mend: Put the copy in its place.

    Returns:
        None where the folder has none.

    Raises:
        UserError: It cannot be read, and there is no copy.
    """
    try:
        own, flaw = _read(path / RUN_FILE) if (path / RUN_FILE).is_file() else None, "is missing"
    except ConfigError as error:
        own, flaw = None, f"cannot be read ({error})"
    source, copy = _read_copy(path)
    if own is not None and (copy is None or flatten(copy).keys() <= flatten(own).keys()):
        return own
    if source is not None:
        said = "was cut off" if own is not None else flaw
        logger.warning("%s %s: what %s says is taken", path / RUN_FILE, said, source)
        if mend:
            write_resolved(path, source.read_text("utf-8"))
        return copy
    if not (path / RUN_FILE).exists():
        return None
    raise UserError(
        f"{path / RUN_FILE} {flaw}, and nothing in the folder has a copy; write it again by `python validate_config.py "
        "FILE --show`, or use --overwrite or another training.output_dir"
    )


def _read_copy(path: Path) -> tuple[Path | None, dict[str, Any] | None]:
    for each in _list_copies(path):
        try:
            return each, _read(each)
        except ConfigError:
            continue
    return None, None


def _read(path: Path) -> dict[str, Any]:
    """Read a file under the names of today, so that it can be compared with what is asked for."""
    document = read_document(path)
    OlderNames(document).rewrite_best()
    return document.data


def _list_copies(path: Path) -> list[Path]:
    """List the copies that are there, newest first."""
    checkpoints = [each / RUN_COPY for each in reversed(list_checkpoints(path))]
    return [each for each in (*checkpoints, path / "final_model" / RUN_FILE) if each.is_file()]
