"""Read a suite's file and collect all mistakes in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from utils.benchmark.suite import Selector, Suite, SuiteSection
from utils.config.document import Document, KeyPath, SourceLocation
from utils.config.error_messages import explain_errors, suggest
from utils.config.section import Section
from utils.config.yaml_text import read_document
from utils.core import registry
from utils.core.errors import ConfigError, Problem
from utils.core.project import find_config
from utils.run_config.kinds import kind_of
from utils.run_config.layers import merge_layer, open_extensions, read_layers, resolve_paths
from utils.run_config.older_table import current_name
from utils.tasks.task import task_sections

_NAME = re.compile(r"\w[\w.+-]*")
_SET_BY_SUITE = {
    "task_name": "the suite names its runs; take it out",
    "training.output_dir": "every run has its own folder below the suite's; use output_dir at the top of the suite",
    "training.logging_dir": "every run logs into its own folder; take it out",
}
_EXTENSIONS: KeyPath = ("extensions",)
_SELECTORS = ("task", "method", "seed")

S = TypeVar("S", bound=Section)
T = TypeVar("T", dict[str, Any], list[Any])


def read_suite(path: str | Path, launcher: str | None = None) -> Suite:
    """Read a suite's file; `launcher` replaces the one in the file.

    Raises:
        ConfigError: With all mistakes of the suite itself, each with its location and remedy.
    """
    path = find_config(path, "configs/benchmarks")
    document = resolve_paths(read_document(path))
    open_extensions(document)
    if kind_of(document) != "suite":
        hint = "a run's file is trained by train.py; a suite starts with suite: NAME and has tasks:"
        raise ConfigError([Problem(f"not a suite; {hint}", place=str(path))])
    return _Reader(document, path).read(launcher)


class _Reader:
    """Reads one document and collects all problems."""

    def __init__(self, document: Document, path: Path) -> None:
        self.document = document
        self.path = path
        self.problems: list[Problem] = []

    def read(self, launcher: str | None) -> Suite:
        of_a_run = ("model", "peft", "dataset", "training", *task_sections(), "task_type", "seed")
        message = "keys of a run go under run:, in a task or in a method"
        section = self._validate(SuiteSection, (), dict.fromkeys(of_a_run, message))
        launched = self._read_launcher(launcher)
        base = self._read_base()
        tasks, task_methods, methods = {}, {}, {}
        for name in self._names("methods"):
            methods[name] = self._layer(("methods", name), without="search")
        for name in self._names("tasks"):
            for method in self._names("tasks", name, "methods"):
                task_methods[name, method] = self._layer(("tasks", name, "methods", method))
                if method not in methods:
                    where = ("tasks", name, "methods", method)
                    self._report(where, f"no method called {method}{suggest(method, sorted(methods))}")
            tasks[name] = self._layer(("tasks", name), without="methods")
        if self.document.get(("tasks",)) == {}:
            self._report(("tasks",), "is empty; name at least one task, such as `rte: {dataset.subset: rte}`")
        grid, places = self._read_grid(("grid",))
        search = {name: self._read_search(name, grid, places) for name in methods}
        places["seeds"] = self._locate(("seeds",))
        self._check_seeds()
        self._check_references(list(methods))
        known = {"task": list(tasks), "method": list(methods), **grid}
        include, exclude = (list(self._read_selectors(key, known)) for key in ("include", "exclude"))
        if self.problems or section is None or launched is None:
            raise ConfigError(dict.fromkeys(self.problems))
        source = self.document.source
        layers = (base, tasks, task_methods, methods)
        return Suite(source, section, *layers, grid, search, places, include, exclude, launched)

    def _validate(self, section: type[S], path: KeyPath, homes: dict[str, str]) -> S | None:
        try:
            return section.model_validate(self.document.get(path) if path else self.document.data)
        except ValidationError as error:
            self.problems += explain_errors(error, section, path, self.document, homes)
            return None

    def _read_launcher(self, wanted: str | None) -> Section | None:
        """Read the launcher's section; settings in the file are ignored for another launcher."""
        written = self._get("launcher", dict) or {"name": "local"}
        own = str(written.get("name", "local"))
        for name in filter(None, (own, wanted)):
            if not registry.has("benchmark.launchers", name):
                known = registry.names("benchmark.launchers")
                self._report(("launcher", "name"), f"no launcher called {name}{suggest(name, known)}")
                return None
        section: type[Section] = registry.load("benchmark.launchers", wanted or own).Config
        is_own = self.document.has(("launcher",)) and (wanted or own) == own
        return self._validate(section, ("launcher",), {}) if is_own else section()

    def _read_base(self) -> Document:
        """Read the base and merge `run:` over it."""
        base = Document(source=self.document.source)
        name = self.document.get(("base",))
        if isinstance(name, str):
            target = self.path.parent / name
            if not target.is_file():
                self._report(("base",), f"no such file: {target} (paths start at this file's folder)")
            else:
                try:
                    base, _ = read_layers(target)
                except ConfigError as error:
                    self.problems += error.problems
        if kind_of(base) == "suite":
            self._report(("base",), f"{name} is a suite itself; name a run's file")
        if name is None and not self.document.get(("run",)):
            self._report((), "has neither base: nor run:, so its runs have no model; name a run's file as base")
        if self._get("run", dict):
            merge_layer(base, self._layer(("run",), own_seed=True))
        if extensions := self.document.get(_EXTENSIONS):
            place = self.document.places[_EXTENSIONS]
            base.set(_EXTENSIONS, list(dict.fromkeys([*base.get(_EXTENSIONS, []), *extensions])), place)
        return base

    def _names(self, *path: str) -> list[str]:
        """List the names below a key, each of which must be valid for a folder."""
        value = self.document.get(path)
        if not isinstance(value, dict):
            if value is not None and len(path) > 1:
                self._report(path, f"must be a mapping of names to settings, found {value!r}")
            return []
        for name in value:
            if not _NAME.fullmatch(name):
                self._report((*path, name), "a name may hold letters, digits and . _ + -, since it names folders")
            if not isinstance(value[name], dict | None):
                self._report((*path, name), f"must be a mapping of settings, found {value[name]!r}")
        return [name for name in value if isinstance(value[name], dict | None)]

    def _layer(self, path: KeyPath, without: str = "", own_seed: bool = False) -> Document:
        """Read settings with nested or dotted keys; only the first key of a path is split at its dots."""
        layer = Document(source=self.document.source)
        for full, value in self.document.leaves(path) if self.document.get(path) else ():
            first, *rest = full[len(path) :]
            if first == without:
                continue
            key = (*first.split("."), *rest)
            if layer.has(key):
                self._report(full, f"{'.'.join(key)} is set twice here, nested and dotted; keep one")
            self._refuse_ours(".".join(key), full, own_seed)
            layer.set(key, value, self._locate(full))
        return layer

    def _refuse_ours(self, key: str, path: KeyPath, own_seed: bool = False) -> None:
        """Report keys that the suite itself sets for each run, also by their older names."""
        key = current_name(key)
        if key in _SET_BY_SUITE:
            self._report(path, _SET_BY_SUITE[key])
        elif key == "seed" and not own_seed:
            self._report(path, "seeds are written in seeds: at the top of the suite")
        elif key == "extensions":
            self._report(path, "belongs at the top of the suite, for all runs")
        elif key == "extends":
            self._report(path, "only a run's file can extend another; name it as base")

    def _read_grid(self, at: KeyPath) -> tuple[dict[str, list[Any]], dict[str, SourceLocation]]:
        grid: dict[str, list[Any]] = {}
        places: dict[str, SourceLocation] = {}
        written = self.document.get(at)
        if len(at) > 1 and written is not None and not isinstance(written, dict):
            self._report(at, f"needs keys with lists of values; found {written!r}")
        for path, values in self.document.leaves(at) if isinstance(written, dict) else ():
            key = ".".join(path[len(at) :])
            self._refuse_ours(key, path)
            if not isinstance(values, list) or not values:
                self._report(path, f"needs a list of values, such as [4, 8]; found {values!r}")
            elif len({repr(value) for value in values}) < len(values):
                self._report(path, "a value is listed twice; keep one")
            else:
                grid[key] = values
                places[key] = self._locate(path)
        return grid, places

    def _read_search(
        self, method: str, grid: dict[str, Any], places: dict[str, SourceLocation]
    ) -> dict[str, list[Any]]:
        """Read the searched values of a method, and add the locations of their keys."""
        at = ("methods", method, "search")
        search, own = self._read_grid(at)
        places |= {f"{method} {key}": place for key, place in own.items()}
        for key in own.keys() & grid.keys():
            self._report(at, f"{key} is in grid: too; keep one")
        return search

    def _check_seeds(self) -> None:
        seeds = self._get("seeds", list)
        if self.document.get(("seeds",)) == []:
            self._report(("seeds",), "is empty; name seeds, or leave the key out for the base's")
        elif len({repr(seed) for seed in seeds}) < len(seeds):
            self._report(("seeds",), "a seed is listed twice; keep one")

    def _check_references(self, methods: list[str]) -> None:
        for name in dict.fromkeys(self._get("references", list)):
            if isinstance(name, str) and name not in methods:
                self._report(("references",), f"no method called {name}{suggest(name, sorted(methods))}")

    def _read_selectors(self, name: str, known: dict[str, list[Any]]) -> Iterator[Selector]:
        for index, entry in enumerate(self._get(name, list)):
            if not isinstance(entry, dict):
                continue
            at = (name, str(index))
            if not entry:
                self._report((name,), "an entry is empty; name a task, a method, a seed or a key of the grid in it")
            wanted = {}
            for path, value in Document(entry).leaves():
                key = ".".join(path)
                wanted[key] = tuple(value) if isinstance(value, list) else (value,)
                self._check_selector((*at, key), key, wanted[key], known)
            yield Selector(wanted, self.document.place_of((*at, next(iter(entry), ""))))

    def _check_selector(self, where: KeyPath, key: str, values: tuple[Any, ...], known: dict[str, list[Any]]) -> None:
        names = list(dict.fromkeys((*_SELECTORS, *known)))
        if key not in names:
            self._report(where, f"{key} is neither task, method, seed nor a key of the grid{suggest(key, names)}")
        for value in values if key in known else ():
            if value not in known[key]:
                given = ", ".join(map(str, known[key])) or "none, since the suite has no methods:"
                self._report(where, f"{value!r} is not one of the suite's; use one of: {given}")

    def _get(self, key: str, kind: type[T]) -> T:
        """Return the value of a top-level key; one of the wrong type, which the section's check reports, is empty."""
        value = self.document.get((key,))
        return value if isinstance(value, kind) else kind()

    def _locate(self, path: KeyPath) -> SourceLocation:
        return self.document.places.get(path, SourceLocation(self.document.source))

    def _report(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(message, ".".join(path), self.document.place_of(path)))
