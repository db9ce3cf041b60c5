"""The inputs of a run: its configuration and extensions, and fingerprints of its rows and base, to compare later.

Even a complete checkpoint cannot be resumed without run.yaml, so the run's own copies can replace it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.config.run_config import EXTENSIONS, RunConfig, flatten
from utils.config.sections.model import ModelSection
from utils.config.yaml_text import read_document
from utils.core.errors import ConfigError, LoraNsError, ModelError, UserError
from utils.core.logs import is_main_process
from utils.core.registry import hash_folder, list_files
from utils.core.replace_file import replace_text, set_aside
from utils.modeling.base_identity import fingerprint_base, fingerprint_config
from utils.results.json_file import read_json, write_json
from utils.run_config.older_best import rewrite_best
from utils.run_config.rewriter import Rewriter
from utils.tasks.task import open_task
from utils.trainer.checkpoint_files import RUN_COPY, list_checkpoints

RUN_FILE = "run.yaml"
INPUTS_FILE = "inputs.json"

logger = logging.getLogger(__name__)


def write_resolved(path: Path, text: str) -> None:
    """Write a run's run.yaml atomically: readers, also after a power cut, see the old or the new one."""
    replace_text(path / RUN_FILE, text)


def holds_resolved(path: Path) -> bool:
    """Return whether a folder is a run's."""
    return any(each.is_file() for each in (path / RUN_FILE, *_list_copies(path)))


def read_resolved(path: Path, mend: bool = False) -> dict[str, Any] | None:
    """Read a run's configuration; if run.yaml is missing or cut off, from the newest copy that the run has made.

    `mend` also replaces run.yaml by the copy. Returns None if the folder has neither.

    Raises:
        UserError: It cannot be read, and there is no copy.
    """
    try:
        own, flaw = _read_keys(path / RUN_FILE) if (path / RUN_FILE).is_file() else None, "is missing"
    except ConfigError as error:
        own, flaw = None, f"cannot be read ({error})"
    source, copy = _read_copy(path)
    # A file cut off at the end of a line is still valid YAML, but lacks keys that a copy has.
    if own is not None and (copy is None or flatten(copy).keys() <= flatten(own).keys()):
        return own
    if source is not None:
        problem = "was cut off" if own is not None else flaw
        logger.warning("%s %s: %s is used instead", path / RUN_FILE, problem, source)
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
            return each, _read_keys(each)
        except ConfigError:
            continue
    return None, None


def _read_keys(path: Path) -> dict[str, Any]:
    """Read a file with older key names replaced, so that it can be compared with the new configuration."""
    document = read_document(path)
    rewrite_best(Rewriter(document))
    return document.data


def _list_copies(path: Path) -> list[Path]:
    checkpoints = [each / RUN_COPY for each in reversed(list_checkpoints(path))]
    return [each for each in (*checkpoints, path / "final_model" / RUN_FILE) if each.is_file()]


def record_inputs(path: Path, resume_from: str | None, config: RunConfig, rows: str) -> None:
    """Write the fingerprints of the run's inputs; `rows` is that of the prepared rows.

    Raises:
        UserError: A resumed run's rows or base have changed since it was started, which would mix two runs.
    """
    found = _list_inputs(rows, config)
    if resume_from is not None:
        folders = (Path(resume_from).resolve().parent, path)
        known = next((each for each in map(_read, folders) if each is not None), None)
        if known is None:
            logger.warning("%s does not record its rows and base, so they are not checked", folders[0])
        else:
            _compare(known, found, path, "cannot be resumed")
    write_json(path / INPUTS_FILE, {"version": 1, **found})


def require_same_inputs(path: Path, config: RunConfig, what: str) -> None:
    """Check that a run's rows and base are unchanged since it was started, if it recorded them.

    Raises:
        UserError: They have changed; `what` says what the run therefore cannot do.
    """
    known = _read(path) if is_main_process() else None
    if known is None:
        return
    try:
        rows = open_task(config).fingerprint_rows()
    except LoraNsError as error:
        logger.warning("%s: cannot check whether its rows are unchanged (%s)", path, error)
        rows = None
    _compare(known, _list_inputs(rows, config), path, what)


def require_unchanged_base(run: Path | None, model: ModelSection, name: str) -> None:
    """Check that an adapter is loaded on the weights that it was trained on, if its run recorded them.

    Raises:
        ModelError: The base has other weights now.
    """
    known = _read(run) if run is not None else None
    if known is not None and (changed := _list_changes({"base": known.get("base")}, {"base": fingerprint_base(model)})):
        raise ModelError(f"{name}: {changed} ({model.name_or_path}) since it was trained; restore it, or train again")


def list_edited_extensions(run: Path) -> list[Path]:
    """List a run's copies of extensions that differ from the code that it was trained with."""
    known = (_read(run) or {}).get("extensions")
    copies = {run / EXTENSIONS / name: code for name, code in known.items()} if isinstance(known, dict) else {}
    return [copy for copy, code in copies.items() if copy.is_dir() and hash_folder(copy) != code]


def copy_extensions(path: Path, config: RunConfig) -> None:
    """Copy the user's plug-ins to the run, so that it can be read where they are missing; an edited copy is renamed."""
    edited = list_edited_extensions(path)
    for each in map(Path, config.extensions):
        target = path / EXTENSIONS / each.name
        if target.resolve() == each or (target.is_dir() and hash_folder(target) == hash_folder(each)):
            continue
        beside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        for file in list_files(each):
            (beside / file.relative_to(each)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, beside / file.relative_to(each))
        if target in edited:
            logger.warning("%s was edited, and is now %s: the run goes on with %s", target, set_aside(target), each)
        shutil.rmtree(target, ignore_errors=True)
        beside.replace(target)


def _list_inputs(rows: str | None, config: RunConfig) -> dict[str, Any]:
    extended = {"extensions": config.hash_extensions()} if config.extensions else {}
    return {"rows": rows, "base": fingerprint_base(config.model), "config": fingerprint_config(config.model),
            **extended}  # fmt: skip


def _compare(known: Mapping[str, Any], found: Mapping[str, Any], path: Path, what: str) -> None:
    if changed := _list_changes(known, found):
        raise UserError(
            f"{path} {what}: {changed} since it was started; restore that, or start over by --overwrite (the old "
            "folder is renamed, not deleted)"
        )


def _read(folder: Path) -> dict[str, Any] | None:
    return read_json(folder / INPUTS_FILE)


def _list_changes(known: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Describe the differences; a fingerprint that one side lacks is no difference."""
    names = {
        "rows": "its rows have changed",
        "base": "its base model has other weights",
        "config": "its base model's config.json has changed",
        "extensions": "its extensions have changed",
    }
    both = [(text, known.get(key), found.get(key)) for key, text in names.items()]
    return " and ".join(f"{text} ({old} then, {new} now)" for text, old, new in both if old and new and old != new)
