"""Checks that the user's callbacks exist, by the source of their modules: importing one would import transformers."""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from utils.core.library_errors import describe


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
    first, *inner = module.split(".")
    loaded = sys.modules.get(first)  # a folder of extensions, for example
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(first)
    spec = spec or PathFinder.find_spec(first, [str(Path.cwd())])
    name = first
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, [*map(str, spec.submodule_search_locations)])  # some packages list Paths
    return spec


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
