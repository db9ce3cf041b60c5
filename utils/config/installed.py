"""Reads the fields of installed libraries' config classes from their source, without importing the libraries.

Importing transformers' Trainer or peft takes 5 to 7 seconds; parsing one source file takes milliseconds and matches
whatever version is installed.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

from utils.core.errors import UserError

_PLAIN: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "None": None,
    "dict": dict[str, Any], "list": list[Any], "Any": Any,
}  # fmt: skip


@dataclass(frozen=True)
class InstalledField:
    """One field of an installed dataclass."""

    name: str
    annotation: Any
    """Type that pydantic can check; an enum becomes a Literal of its values."""
    help: str
    """The library's own description, or empty if there is none."""
    default: Any = None
    """Default value, if the source states it as a literal."""
    is_default_known: bool = False
    """Whether `default` could be read; enum members and results of calls cannot."""


@cache
def read_fields(module: str, class_name: str) -> dict[str, InstalledField]:
    """Read the fields that a dataclass declares itself, excluding inherited fields.

    Raises:
        UserError: The library is not installed, or the installed version has no such class.
    """
    tree = _parse(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return {field.name: field for field in _fields(node, module)}
    raise UserError(
        f"the installed {module.split('.', maxsplit=1)[0]} has no {class_name}; `pip check` names the one to install"
    )


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution, or None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it (its parent packages are imported)."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def source_of(module: str) -> Path:
    """Find the source file of an installed library's module, without importing the library.

    Raises:
        UserError: The library is not installed.
    """
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package} is not installed; run pip install {package}")
    path = Path(next(iter(spec.submodule_search_locations))).joinpath(*inner)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _parse(module: str) -> ast.Module:
    return ast.parse(source_of(module).read_text("utf-8"))


def _fields(node: ast.ClassDef, module: str) -> Iterator[InstalledField]:
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if line.target.id.startswith("_") or _is_class_var(line.annotation):
            continue
        default, is_known = _default_of(line.value)
        yield InstalledField(line.target.id, _type_of(line.annotation, module), _help_of(line.value), default, is_known)


def _is_class_var(annotation: ast.expr) -> bool:
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("ClassVar")


def _default_of(value: ast.expr | None) -> tuple[Any, bool]:
    """Read a default from `= 3`, `field(default=3)` or `field(default_factory=dict)`, and whether it was a literal."""
    factories: dict[str, Any] = {"dict": {}, "list": []}
    if isinstance(value, ast.Call):
        written = {keyword.arg: keyword.value for keyword in value.keywords}
        if (factory := written.get("default_factory")) is not None:
            name = ast.unparse(factory)
            return factories.get(name), name in factories
        value = written.get("default")
    try:
        return (ast.literal_eval(value), True) if value is not None else (None, False)
    except ValueError:
        return None, False


def _help_of(value: ast.expr | None) -> str:
    for node in ast.walk(value) if value else ():
        if isinstance(node, ast.Dict):
            for key, text in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help" and isinstance(text, ast.Constant):
                    return " ".join(str(text.value).split())
    return ""


def _type_of(node: ast.expr, module: str) -> Any:
    """Translate an annotation to a type; anything that cannot be checked without the library becomes Any."""
    if isinstance(node, ast.Constant):
        return _type_of(ast.parse(node.value, mode="eval").body, module) if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return _PLAIN[node.id] if node.id in _PLAIN else _enum_values(node.id, module) or _alias(node.id, module)
    if isinstance(node, ast.BinOp):
        return _union([_type_of(node.left, module), _type_of(node.right, module)])
    if isinstance(node, ast.Subscript):
        return _generic(ast.unparse(node.value).split(".")[-1], node.slice, module)
    return Any


def _generic(name: str, inner: ast.expr, module: str) -> Any:
    parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return Literal[tuple(ast.literal_eval(part) for part in parts)]
    if name in ("Union", "Optional"):
        return _union([_type_of(part, module) for part in parts] + ([None] if name == "Optional" else []))
    if name in ("list", "List", "tuple", "Sequence"):
        return list[_type_of(parts[0], module)]  # type: ignore[misc]  # its item is known at run time only
    return dict[str, Any] if name in ("dict", "Dict") else Any


def _union(types: list[Any]) -> Any:
    """Join alternatives; `SomeEnum | str` is narrowed to the enum's values."""
    if any(kind is Any for kind in types):
        return Any
    if any(getattr(kind, "__origin__", None) is Literal for kind in types):
        types = [kind for kind in types if kind is not str]
    return reduce(or_, [type(None) if kind is None else kind for kind in types])


def _alias(name: str, module: str) -> Any:
    """Resolve an alias such as `Name = Literal["a", "b"]` defined in the module."""
    for node in _parse(module).body:
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == [name]:
            return _type_of(node.value, module) if isinstance(node.value, ast.Subscript) else Any
    return Any


@cache
def _enum_values(name: str, module: str) -> Any:
    """Read the values of an enum that the module defines or imports."""
    for node in ast.walk(_parse(module)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            values = [line.value.value for line in node.body if _is_member(line)]  # type: ignore[attr-defined]  # checked by _is_member
            return Literal[tuple(values)] if values else None
    for node in _parse(module).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            target = f"{_package_above(module, node.level)}.{node.module}" if node.level else node.module
            return _enum_values(name, target) if target.split(".")[0] == module.split(".", maxsplit=1)[0] else None
    return None


def _package_above(module: str, level: int) -> str:
    """Return the package that a relative import starts from; one dot means the module's own package."""
    steps = level - 1 if source_of(module).name == "__init__.py" else level
    return module.rsplit(".", steps)[0]


def _is_member(line: ast.stmt) -> bool:
    return isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
