"""Merges the layers of a configuration: the extended file, the file, the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.config.document import Document, KeyPath
from utils.config.run_config import EXTENSIONS
from utils.config.yaml_text import read_document, read_overrides
from utils.core import registry
from utils.core.errors import ConfigError, Problem
from utils.core.json_files import find_object
from utils.core.project import IS_INSTALLED, ROOT, find_config
from utils.results.provenance import PROVENANCE_FILE
from utils.run_config.extensions import add_extension

_METHOD: KeyPath = ("peft", "method")
_EXTENSIONS: KeyPath = ("extensions",)
_RATES: tuple[KeyPath, ...] = (("training", "learning_rate"), ("training", "lr"))
_SWITCHES: dict[KeyPath, str] = {_METHOD: "adapters", ("dataset", "name"): "datasets"}
"""Keys that choose a section's class, with the package of their plug-ins."""
_NAMES = ("name_or_path", "path", "adapter_path")
"""Keys that name a folder or file, even without a slash."""


def read_layers(path: str | Path, overrides: Sequence[str] = (), may_extend: bool = True) -> tuple[Document, list[str]]:
    """Read a file, or a shipped one by its name, with the file it extends, and apply `key=value` overrides.

    Its own code (`extensions:`) is accepted only if it `may_extend`. Also returns notices on inherited keys that a
    switched method or dataset cannot or should not use.

    Raises:
        ConfigError: A file or an override cannot be read.
    """
    path = find_config(path)
    document = resolve_paths(read_document(path))
    open_extensions(document, may_extend)
    notices: list[str] = []
    kept_rate: list[str] = []
    if (base := _read_base(document, path, may_extend)) is not None:
        kept_rate = _find_kept_rate(base, document)
        notices += merge_layer(base, document)
        document, base = base, document
        document.source = base.source
    over = read_overrides(overrides)
    open_extensions(over, may_extend)
    if over.has(("extends",)):
        raise ConfigError([Problem("only a file can extend another; write it there", "extends", over.source)])
    if over.has(_METHOD) or any(map(over.has, _RATES)):
        kept_rate = _find_kept_rate(document, over)
    notices += merge_layer(document, over)
    return document, notices + kept_rate


def _read_base(document: Document, path: Path, may_extend: bool) -> Document | None:
    if not document.has(("extends",)):
        return None
    place = document.place_of(("extends",))
    name = document.remove(("extends",))
    if not isinstance(name, str):
        raise ConfigError([Problem("must be the path of another YAML file", "extends", place)])
    target = path.parent / name
    if not target.is_file():
        raise ConfigError([Problem(f"no such file: {target} (paths start at this file's folder)", "extends", place)])
    base = resolve_paths(read_document(target))
    open_extensions(base, may_extend)
    if base.has(("extends",)):
        message = f"{target} extends another file itself; only one level is allowed"
        raise ConfigError([Problem(message, "extends", place)])
    return base


def open_extensions(document: Document, allowed: bool = True) -> None:
    """Add the plug-in folders that a document names, and make their paths absolute.

    Raises:
        ConfigError: A folder is missing, conflicts with existing plug-ins, or must not run code.
    """
    names = document.get(_EXTENSIONS)
    if not names:
        return
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ConfigError([document.problem("extensions", "takes a list of folders: [my_lab]")])
    if not allowed:
        message = (
            f"the code in {', '.join(names)} would run; a folder cannot allow that itself: if you trust who made it, "
            "add --allow_extensions"
        )
        raise ConfigError([document.problem("extensions", message)])
    place = document.places.get(_EXTENSIONS)
    home = Path(place.source).parent if place is not None and place.line else Path()
    folders = [_find_extension(home, each) for each in names]
    for name, folder in zip(names, folders, strict=True):
        try:
            add_extension(folder)
        except ConfigError as error:
            is_lost = name.startswith(f"{EXTENSIONS}/") and not folder.is_dir()
            hint = f"; copy {EXTENSIONS}/ of the run's folder beside this file, or name that folder" if is_lost else ""
            raise ConfigError([document.problem("extensions", f"{error}{hint}")]) from None
    document.data["extensions"] = [str(folder.resolve()) for folder in folders]


def _find_extension(home: Path, name: str) -> Path:
    """Find a folder relative to the file that names it; a run's copy of the file is one folder deeper."""
    places = [place / Path(name).expanduser() for place in (home, home / "..")]
    return next((place for place in places if place.is_dir()), places[0])


def merge_layer(base: Document, over: Document) -> list[str]:
    """Merge one document over another, key by key; a learning rate of null removes the one below it.

    Returns:
        Notices on keys of the base that a switched method or dataset cannot use; they are removed.
    """
    notices = []
    for switch, package in _SWITCHES.items():
        if over.has(switch):
            notices += _drop_stale_keys(base, over, switch, package)
    base.merge(over)
    is_taken_away = any(over.has(rate) and over.get(rate) is None for rate in _RATES)
    for rate in filter(base.has, _RATES):
        if is_taken_away or base.get(rate) is None:
            base.remove(rate)
    return notices


def _find_kept_rate(base: Document, over: Document) -> list[str]:
    """Report, before merging, that a switched method keeps the learning rate that was chosen for another."""
    rate = next((base.get(each) for each in _RATES if base.has(each)), None)
    if any(map(over.has, _RATES)) or not over.has(_METHOD) or not isinstance(rate, (int, float)):
        return []
    found = _find_switch(base, over, _METHOD, "adapters")
    own = registry.load("adapters", found[1]).Config.DEFAULT_LEARNING_RATE if found else None
    if found is None or own in (None, rate):
        return []
    remedy = f"{found[1]}'s own is {own:g} (training.learning_rate=null)"
    return [f"{over.place_of(_METHOD)}  peft.method: training.learning_rate stays {rate:g}; {remedy}"]


def _find_switch(base: Document, over: Document, switch: KeyPath, package: str) -> tuple[str, str] | None:
    """Return the plug-ins switched from and to; None if they are the same, or one is unknown."""
    implied = "lora" if package == "adapters" and base.has(switch[:1]) else "custom"
    old, new = (str(source.get(switch, implied)) for source in (base, over))
    is_other = (
        registry.normalize(old) != registry.normalize(new) and registry.has(package, old) and registry.has(package, new)
    )
    return (old, new) if is_other else None


def _drop_stale_keys(base: Document, over: Document, switch: KeyPath, package: str) -> list[str]:
    """Remove inherited keys that only the previous method or dataset knows."""
    if (found := _find_switch(base, over, switch, package)) is None:
        return []
    old, new = found
    section = switch[0]
    before, after = (registry.load(package, name).Config for name in (old, new))
    if package == "adapters":
        kept = {*after.model_fields, *after.ALIASES} - after.NOT_INHERITED
    else:
        kept = set(after.SHARED_FIELDS)
    gone = {*before.model_fields, *before.ALIASES} - kept
    stale = [key for key in base.get((section,), {}) if key in gone and not over.has((section, key))]
    for key in stale:
        base.remove((section, key))
    where = over.place_of(switch)
    left_out = ", ".join(f"{section}.{key}" for key in stale)
    return [f"{where}  {'.'.join(switch)}: now {new}; left out, for {old} only: {left_out}"] if stale else []


def resolve_paths(document: Document) -> Document:
    """Resolve paths that do not exist from the working directory as relative to where the file was written.

    For a shipped file, and for copies of one with the installed package, that is the project's folder. For a run's own
    file it is the working directory of its training, stored in its provenance. Output folders are not changed. The
    document is modified and returned.
    """
    source = Path(document.source).resolve()
    if source.name == "run.yaml":
        beside = (find_object(folder / PROVENANCE_FILE) for folder in source.parents[:2])  # a copy is in final_model/
        homes = (each.get("working_directory") for each in beside)
        if home := next((each for each in homes if isinstance(each, str)), None):
            document.data = _resolve_in(document.data, Path(home))
    if IS_INSTALLED or ROOT in source.parents:
        document.data = _resolve_in(document.data, ROOT)
    return document


def _resolve_in(value: Any, root: Path, is_name: bool = False) -> Any:
    """Prepend the root to paths that exist only there; `is_name`: a string without a slash may be a path too."""
    if isinstance(value, dict):
        return {
            key: each if key.endswith("_dir") else _resolve_in(each, root, key in _NAMES) for key, each in value.items()
        }
    if isinstance(value, list):
        return [_resolve_in(each, root) for each in value]
    is_path = isinstance(value, str) and 0 < len(value) < 1000 and (is_name or "/" in value)
    if not is_path or value.startswith("/"):
        return value
    return str(root / value) if not os.path.exists(value) and os.path.exists(root / value) else value
