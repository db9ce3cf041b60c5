"""Checks that the user's callbacks exist, by the source of their modules: importing one would import transformers."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path

from utils.core.library_errors import describe

_LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)
"""Kinds of modules, as Python searches a folder for them."""


def explain_callback(name: str) -> str | None:
    """Explain why a callback `module:Class` cannot be found, or return None if it can, or its source cannot be read."""
    module, _, attribute = name.partition(":")
    if (spec := _find_spec(module)) is None:
        return f"there is no module {module}, neither installed nor in the working directory"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes(), spec.origin)
    except SyntaxError as error:
        return f"{module} cannot be imported: {spec.origin}:{error.lineno}: {describe(error)}"
    return None if {attribute, "*", "__getattr__"} & _list_names(tree) else f"{module} has no {attribute}"


def _find_spec(module: str) -> ModuleSpec | None:
    """Find a module without importing the packages that it is in."""
    if module in sys.modules:
        return sys.modules[module].__spec__ or ModuleSpec(module, None)
    first, *inner = module.split(".")
    loaded = sys.modules.get(first)  # a folder of extensions, for example
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(first)
    spec = spec or _find_in([Path.cwd()], first)
    for part in inner:
        if spec is None or not (spec.origin or spec.submodule_search_locations):  # of another kind than files
            return spec
        spec = _find_in(spec.submodule_search_locations or (), part)
    return spec


def _find_in(folders: Iterable[str | Path], name: str) -> ModuleSpec | None:
    """Find a module, package or folder of modules in some folders."""
    finders = (FileFinder(str(folder), *_LOADERS) for folder in folders)
    return next((spec for each in finders if (spec := each.find_spec(name)) is not None), None)


def _list_names(tree: ast.Module) -> set[str]:
    """List the names that a module's code defines or imports anywhere."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found
