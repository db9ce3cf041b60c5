"""What a run was started with: fingerprints of its rows and of its base, written before training and compared later."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.config.run_config import RunConfig
from utils.config.sections.model import ModelSection
from utils.core.errors import LoraNsError, ModelError, UserError
from utils.core.logs import is_main_process
from utils.modeling.base_identity import fingerprint_base
from utils.results.json_file import read_json, write_json
from utils.runs.opening import RunFolder, open_run_folder
from utils.tasks.task import open_task

INPUTS_FILE = "inputs.json"

logger = logging.getLogger(__name__)


def record_inputs(folder: RunFolder, config: RunConfig, rows: str) -> None:
    """Write what the run is trained on; of a resumed run, see to it first that it is what it was started with.

    Args:
        folder: The run's.
        config: The run's.
        rows: Fingerprint of the rows that were prepared.

    Raises:
        UserError: Rows or base have changed: results would be of both.
    """
    found = _list_inputs(rows, config)
    if folder.resume_from is not None:
        homes = (Path(folder.resume_from).resolve().parent, folder.path)
        known = next((each for each in map(_read, homes) if each is not None), None)
        if known is None:
            logger.warning("%s does not say with which rows and base it was started: that is not checked", homes[0])
        else:
            _compare(known, found, folder.path, "cannot be resumed")
    write_json(folder.path / INPUTS_FILE, {"version": 1, **found})


def open_checked_folder(config: RunConfig, resume: str | None, overwrite: bool) -> RunFolder:
    """Open a run's folder as `open_run_folder` does; one that is resumed or done has the rows and base of now.

    Raises:
        UserError: They have changed; nothing in the folder is touched then.
    """
    path = Path(config.training.output_dir).expanduser()
    folder = open_run_folder(config, resume, overwrite, lambda: require_same_inputs(path, config, "cannot be resumed"))
    if folder.finished is not None:
        require_same_inputs(path, config, "is done, and cannot be taken as it is")
    return folder


def require_same_inputs(path: Path, config: RunConfig, what: str) -> None:
    """See to it that a run's rows and base are those that it was started with.

    Args:
        path: The run's folder; one that does not say what they were is let be.
        config: The run's.
        what: What is wrong with the run if they are not.

    Raises:
        UserError: They have changed.
    """
    known = _read(path) if is_main_process() else None
    if known is None:
        return
    try:
        rows = open_task(config).fingerprint_rows()
    except LoraNsError as error:
        logger.warning("%s: whether its rows are still the same cannot be told (%s)", path, error)
        rows = None
    _compare(known, _list_inputs(rows, config), path, what)


def require_unchanged_base(run: Path | None, model: ModelSection, name: str) -> None:
    """See to it that an adapter is put on the very weights that it was trained on.

    Args:
        run: The run's folder; None: the adapter was made elsewhere.
        model: The base.
        name: What the user called the run.

    Raises:
        ModelError: The base has other weights now.
    """
    known = _read(run) if run is not None else None
    if known is not None and (changed := _list_changes({"base": known.get("base")}, {"base": fingerprint_base(model)})):
        raise ModelError(f"{name}: {changed} ({model.name_or_path}) since it was trained; restore it, or train again")


def _list_inputs(rows: str | None, config: RunConfig) -> dict[str, Any]:
    extended = {"extensions": config.hash_extensions()} if config.extensions else {}
    return {"rows": rows, "base": fingerprint_base(config.model), **extended}


def _compare(known: Mapping[str, Any], found: Mapping[str, Any], path: Path, what: str) -> None:
    if changed := _list_changes(known, found):
        raise UserError(
            f"{path} {what}: {changed} since it was started; restore that, or start over by --overwrite (the old "
            "folder is renamed, not deleted)"
        )


def _read(folder: Path) -> dict[str, Any] | None:
    return read_json(folder / INPUTS_FILE)


def _list_changes(known: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Name what differs; what one of both does not know does not."""
    names = {
        "rows": "its rows have changed",
        "base": "its base model has other weights",
        "extensions": "its extensions have changed",
    }
    both = [(text, known.get(key), found.get(key)) for key, text in names.items()]
    return " and ".join(f"{text} ({old} then, {new} now)" for text, old, new in both if old and new and old != new)
