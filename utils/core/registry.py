"""Finds plug-ins by name: the configuration value is the file name, and the directory is the registry.

A module (or package) is a plug-in if its source defines its kind's marker at top level, such as `class Config` in
`utils/adapters`. Small plug-ins share a module with a `TABLE = {name: ...}`, which holds metrics or comes with a
function `load_plugin(name)`. Plug-ins are found without importing them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, TypeVar

from utils.core.errors import ConfigError, UserError
from utils.core.library_errors import describe
from utils.core.project import LIBRARY, PACKAGE, alias_installed_name

_F = TypeVar("_F", bound=Callable[..., Any])

_added: list[Path] = []
_remembered: list[Any] = []
_TABLE = re.compile(r"^TABLE\b", re.MULTILINE)
_MARKERS = {
    "adapters": r"^class Config\b",
    "datasets": r"^class Config\b",
    "metrics": r"^METRIC\b",
    "tasks": r"^class Task\(",
    "optimizers": r"^class Config\b",
    "schedules": r"^class Config\b",
    "generation.backends": r"^class Backend\b",
    "benchmark.launchers": r"^class Config\b",
}


def remember(function: _F) -> _F:
    """Cache a function of the plug-ins until a folder is added or removed."""
    _remembered.append(cache(function))
    remembered: _F = _remembered[-1]
    return remembered


def normalize(value: str) -> str:
    """Convert a configuration value to a module name: `prefix-tuning` becomes `prefix_tuning`."""
    return value.strip().lower().replace("-", "_")


@remember
def names(package: str) -> tuple[str, ...]:
    """Return the names of a package's plug-ins (`adapters`, `generation.backends` ...), sorted."""
    return tuple(sorted(_find_homes(package)))


def add_folder(folder: Path) -> Path | None:
    """Search another folder, laid out like `utils/`, after the library's own.

    Its files are imported as `<folder>.<package>.<name>`, and may import each other by that name.

    Args:
        folder: A folder such as `my_lab` that contains `my_lab/adapters/my_method.py`.

    Returns:
        The absolute path, or None if a folder with the same name and content, such as a run's copy, was added before.

    Raises:
        ConfigError: One of its plug-ins has a name that is taken, or another module has the folder's name.
    """
    alias_installed_name()
    folder = folder.resolve()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; a run keeps its copies in extensions/ of its own folder")
    if folder == LIBRARY:
        raise ConfigError(f"{folder}: is the library itself, which is searched anyway; leave it out")
    same_name = next((each for each in _added if each.name == folder.name), None)
    if same_name is not None and hash_folder(same_name) == hash_folder(folder):
        return None
    if same_name is not None or _is_module(folder):
        raise ConfigError(f"{folder}: there already is a module called {folder.name}; give the folder another name")
    for package in _MARKERS:
        if taken := sorted(set(names(package)) & set(_search(folder, package))):
            shown = ", ".join(taken[:3]) + (" ..." if len(taken) > 3 else "")
            raise ConfigError(f"{folder}: {package} has a plug-in called {shown} already; rename it")
    _import_package(folder)
    _added.append(folder)
    _clear_caches()
    return folder


def list_added(folder: Path) -> list[tuple[str, str]]:
    """List the plug-ins of an added folder as pairs of package and name."""
    return [(package, name) for package in _MARKERS for name in sorted(_search(folder, package))]


def _is_module(folder: Path) -> bool:
    """Return whether another module has the folder's name; a namespace package without code does not count."""
    if folder.name in sys.modules:
        return True
    spec = importlib.util.find_spec(folder.name) if folder.name.isidentifier() else None
    return spec is not None and spec.origin is not None and Path(spec.origin).parent != folder


def _import_package(folder: Path) -> None:
    """Make the folder importable as a package, regardless of its location and of other packages of its name."""
    if not folder.name.isidentifier():
        raise ConfigError(f"{folder}: its files are imported by its name, which may only have letters, digits and _")
    init, places = folder / "__init__.py", [str(folder)]
    spec = importlib.util.spec_from_file_location(folder.name, init, submodule_search_locations=places)
    if not init.is_file():
        spec = ModuleSpec(folder.name, None)
        spec.submodule_search_locations = places
    assert spec is not None, "a Python file has a loader"
    module = sys.modules[folder.name] = importlib.util.module_from_spec(spec)
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except BaseException:  # a half-imported module would be found next time
            del sys.modules[folder.name]
            raise


def hash_folder(folder: Path) -> str:
    """Hash the names and contents of a folder's files, except compiled ones."""
    found = hashlib.sha256()
    for path in list_files(folder):
        found.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def list_files(folder: Path) -> list[Path]:
    """List the files of a plug-in folder, except compiled ones."""
    return sorted(each for each in folder.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def remove_folder(folder: Path) -> None:
    """Stop searching a folder, and unload the modules imported from it."""
    folder = folder.resolve()
    _added.remove(folder)
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]
    _clear_caches()


@contextmanager
def temporary_folders() -> Iterator[None]:
    """Remove at the end of the context the folders that are added in it."""
    before = [*_added]
    try:
        yield
    finally:
        for folder in [each for each in _added if each not in before]:
            remove_folder(folder)


@remember
def _find_homes(package: str) -> dict[str, str]:
    """Return the module that defines each plug-in, by the plug-in's name."""
    found: dict[str, str] = {}
    for folder in (LIBRARY, *_added):
        prefix = f"{PACKAGE if folder == LIBRARY else folder.name}.{package}"
        found |= {name: f"{prefix}.{home}" for name, home in _search(folder, package).items()}
    return found


def _search(root: Path, package: str) -> dict[str, str]:
    marker = re.compile(_MARKERS[package], re.MULTILINE)
    folder = root.joinpath(*package.split("."))
    sources = [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    homes: dict[str, str] = {}
    for path in (path for path in sources if path.stem != "__init__" or path.parent != folder):
        name = path.parent.name if path.stem == "__init__" else path.stem
        text = path.read_text("utf-8", errors="replace")
        if name != normalize(name) or not name.isidentifier():
            raise ConfigError(f"{path}: a plug-in's file is called by small letters, digits and _: {normalize(name)}")
        if marker.search(text):
            homes[name] = name
        elif _TABLE.search(text):
            homes |= dict.fromkeys(_read_names(text, path), name)
    return homes


def _read_names(source: str, path: Path) -> list[str]:
    """Read the names in a module's TABLE, without importing it."""
    for node in ast.parse(source, path).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(each, ast.Name) and each.id == "TABLE" for each in targets):
            keys = node.value.keys if isinstance(node.value, ast.Dict) else [None]
            names = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
            if len(names) < len(keys):
                raise ConfigError(f'{path}:{node.lineno}: TABLE holds plug-ins; write it out: TABLE = {{"name": ...}}')
            return names
    return []


def has(package: str, value: str) -> bool:
    """Return whether a package has a plug-in of this name."""
    return normalize(value) in names(package)


def is_added(package: str, value: str) -> bool:
    """Return whether a plug-in is the user's own."""
    return not _find_homes(package)[normalize(value)].startswith(f"{PACKAGE}.")


def explain_added(error: BaseException) -> UserError | None:
    """Explain an error that the user's own plug-ins have raised, with its line; None for other errors."""
    place = next((found for folder in _added if (found := find_line(error, folder))), None)
    return UserError(f"{place}: {describe(error)}") if place else None


def explain_call(name: str, function: Callable[..., Any], taken: str) -> str | None:
    """Explain why a user's function cannot take the arguments that `taken` names, or return None if it can."""
    try:
        inspect.signature(function).bind(*taken.split(", "))
    except TypeError as error:
        return f"{name} is called with ({taken}): {error}"
    except ValueError:  # compiled functions may have no signature
        return None
    return None


def find_line(error: BaseException, folder: Path) -> str | None:
    """Return `file:line` of the innermost line below a folder that raised the error, or None."""
    frames = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:  # that file has no frame of its own
        frames.append((error.filename, error.lineno))
    own = [f"{name}:{line}" for name, line in frames if Path(name).is_relative_to(folder)]
    return own[-1] if own else None


def _clear_caches() -> None:
    for function in _remembered:
        function.cache_clear()
    importlib.invalidate_caches()


@remember
def load(package: str, value: str) -> Any:
    """Import the plug-in that a configuration value names.

    Raises:
        KeyError: The package has no such plug-in.
    """
    name = normalize(value)
    home = _find_homes(package)[name]
    module = importlib.import_module(home)
    if home.endswith(f".{name}"):
        return module
    return types.SimpleNamespace(METRIC=module.TABLE[name]) if package == "metrics" else module.load_plugin(name)
