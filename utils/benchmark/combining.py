"""Combine a suite's tasks, methods, grid and seeds into named runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.benchmark.suite import Suite
from utils.config.document import Document
from utils.core import registry
from utils.core.errors import ConfigError, Problem
from utils.run_config.layers import merge_layer

MOST_RUNS = 5_000
_LONGEST_NAME = 150


@dataclass(frozen=True)
class Combination:
    """One run before its configuration is built."""

    task: str
    method: str
    grid: dict[str, Any]
    """Values by dotted key."""
    seed: int
    document: Document
    """All layers below the grid, merged; shared by several runs."""
    searched: dict[str, Any] | None = None
    """The values that a run of a search tries; {} for a run that waits for a search's choice."""
    is_search: bool = False


@dataclass
class Combined:
    """Result of combining."""

    combinations: list[Combination] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def combine(suite: Suite, seeds: Sequence[int] = ()) -> Combined:
    """Combine a suite in the order task, method, grid, seed, and apply include and exclude.

    `seeds` are those of the command line, instead of the suite's.
    """
    crossed = Combined()
    used: set[int] = set()
    idle: dict[str, set[str]] = {}
    own_seeds = seeds or suite.section.seeds or ()
    _require_few(suite, len(own_seeds) or 1)
    if overlap := {*own_seeds} & {*(suite.section.search_seeds or ())}:
        message = f"{sorted(overlap)} are seeds of the suite too; results of seeds used for choosing are not reported"
        raise ConfigError([Problem(message, "search_seeds", suite.source)])
    for each in _cross(suite, own_seeds, idle):
        values = {"task": each.task, "method": each.method, "seed": each.seed, **each.grid}
        included = [selector for selector in suite.include if selector.fits(values)]
        excluded = [selector for selector in suite.exclude if selector.fits(values)]
        used |= {id(selector) for selector in (*included, *excluded)}
        # A search belongs to the runs it is for, whatever their seeds.
        if each.is_search or ((included or not suite.include) and not excluded):
            crossed.combinations.append(each)
    # Skip searches that are for no run.
    reported = {(each.task, each.method, repr(each.grid)) for each in crossed.combinations if not each.is_search}
    crossed.combinations = [
        each for each in crossed.combinations if (each.task, each.method, repr(each.grid)) in reported
    ]
    for key, methods in idle.items():
        names = ", ".join(sorted(methods))
        crossed.notices.append(f"{suite.places[key]}  grid.{key}: not a key of {names}, which is run once without it")
    crossed.warnings += _find_unused(suite, used)
    return crossed


def _require_few(suite: Suite, num_seeds: int) -> None:
    """Reject a suite with too many runs before their configurations are built."""
    tried = sum(math.prod(map(len, each.values())) for each in suite.search.values() if each)
    per_method = max(1, len(suite.methods)) * num_seeds + tried * len(suite.section.search_seeds or (1,))
    count = len(suite.tasks) * per_method * math.prod(map(len, suite.grid.values()))
    if count > MOST_RUNS:
        message = (
            f"tasks, methods, grid and seeds make {count:,} runs; at most {MOST_RUNS:,} are planned: take some out"
        )
        raise ConfigError([Problem(message, "grid" if suite.grid else "seeds", suite.source)])


def _cross(suite: Suite, seeds: Sequence[int], idle: dict[str, set[str]]) -> Iterator[Combination]:
    for task, name in itertools.product(suite.tasks, suite.methods or [""]):
        document = _lay_together(suite, task, name)
        method = name or str(document.get(("peft", "method"), "lora" if document.has(("peft",)) else "none"))
        search = suite.search.get(method, {})
        own_seeds = seeds or [document.get(("seed",), 42)]
        for grid in _cross_grid(suite, document, method, idle):
            for values in itertools.product(*search.values()) if search else ():
                tried = dict(zip(search, values, strict=True))
                for seed in suite.section.search_seeds or [max(own_seeds) + 1]:
                    yield Combination(task, method, grid, seed, document, tried, is_search=True)
            for seed in own_seeds:
                yield Combination(task, method, grid, seed, document, {} if search else None)


def _lay_together(suite: Suite, task: str, method: str) -> Document:
    """Merge the task, the method, and the task's own settings of the method over the base."""
    document = suite.base.copy()
    for layer in (suite.tasks[task], suite.methods.get(method), suite.task_methods.get((task, method))):
        if layer is not None:
            merge_layer(document, layer)
    return document


def _cross_grid(suite: Suite, document: Document, method: str, idle: dict[str, set[str]]) -> Iterator[dict[str, Any]]:
    """Yield the grid's combinations; keys that the combination's adapter lacks are left out and noted in `idle`."""
    seen: set[str] = set()
    for values in itertools.product(*suite.grid.values()):
        grid = dict(zip(suite.grid, values, strict=True))
        adapter = str(grid.get("peft.method", document.get(("peft", "method"), "lora")))
        # Otherwise a method without the key, such as a rank, would repeat one configuration for each value.
        for key in [key for key in grid if _is_of_another(key, adapter)]:
            idle.setdefault(key, set()).add(method)
            del grid[key]
        if (mark := repr(grid)) not in seen:
            seen.add(mark)
            yield grid


def _is_of_another(key: str, adapter: str) -> bool:
    """Return whether a key belongs to other adapters only; unknown keys are left to the run's own check."""
    section, _, name = key.partition(".")
    if section != "peft" or not registry.has("adapters", adapter):
        return False
    name = name.partition(".")[0]
    return name not in _keys_of(adapter) and any(name in _keys_of(plugin) for plugin in registry.names("adapters"))


def _keys_of(adapter: str) -> set[str]:
    config = registry.load("adapters", adapter).Config
    return {*config.model_fields, *config.ALIASES}


def _find_unused(suite: Suite, used: set[int]) -> Iterator[str]:
    for name, selectors in (("include", suite.include), ("exclude", suite.exclude)):
        for selector in selectors:
            if id(selector) not in used:
                yield f"{selector.place}  {name}: this entry fits no run"


def name_run(task: str, method: str, grid: dict[str, Any], seed: int, shorts: dict[str, str]) -> str:
    """Name a run `<task>-<method>-<grid>-s<seed>`; `shorts` maps the grid's keys by `shorten_keys`.

    The name is a folder's, so it has no characters special to a shell.
    """
    values = (f"{shorts[key]}={_write_value(value)}" if value != "" else key for key, value in grid.items())
    name = "-".join([task, method, *values, f"s{seed}"])
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{_digest(name)}"


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Shorten each grid key to its last part where that is unambiguous."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _write_value(value: Any) -> str:
    """Format a value for a folder's name; a hash distinguishes values that look the same afterwards."""
    text = value if isinstance(value, str) else json.dumps(value)
    plain = re.sub(r"[^\w.+-]+", "_", text).strip("_")
    return plain if plain == text and len(plain) <= 40 else f"{plain[:30]}_{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
