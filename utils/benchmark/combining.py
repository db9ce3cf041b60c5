"""Crosses a suite's tasks, methods, grid and seeds into the runs that it has, and names them."""

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
from utils.run_config.layers import lay_over

MOST_RUNS = 5_000
_LONGEST_NAME = 150


@dataclass(frozen=True)
class Combination:
    """One run before its configuration is put together."""

    task: str
    method: str
    grid: dict[str, Any]
    """Values by dotted key."""
    seed: int
    document: Document
    """Everything below the grid, laid together; several runs share it."""
    searched: dict[str, Any] | None = None
    """Of a run of a search, the values that it tries; {} of a run that waits for what the search will choose."""
    is_search: bool = False


@dataclass
class Combined:
    """What crossing gave."""

    combinations: list[Combination] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def combine(suite: Suite, seeds: Sequence[int] = ()) -> Combined:
    """Cross what a suite has, in the order task, method, grid, seed, and leave out what include and exclude say.

    `seeds` are those of the command line, in place of the suite's.
    """
    crossed = Combined()
    used: set[int] = set()
    idle: dict[str, set[str]] = {}
    own_seeds = seeds or suite.section.seeds or ()
    _require_few(suite, len(own_seeds) or 1)
    if overlap := {*own_seeds} & {*(suite.section.search_seeds or ())}:
        message = f"{sorted(overlap)} are seeds of the suite too; what is chosen by a seed cannot be reported of it"
        raise ConfigError([Problem(message, "search_seeds", suite.source)])
    for each in _cross(suite, own_seeds, idle):
        values = {"task": each.task, "method": each.method, "seed": each.seed, **each.grid}
        included = [selector for selector in suite.include if selector.fits(values)]
        excluded = [selector for selector in suite.exclude if selector.fits(values)]
        used |= {id(selector) for selector in (*included, *excluded)}
        # What a search tries belongs to the runs that it is for, whichever seeds these have.
        if each.is_search or ((included or not suite.include) and not excluded):
            crossed.combinations.append(each)
    # A search that is for no run is not made.
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
    """Refuse a suite that nobody can run, before its runs are put together one by one."""
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
    """Lay the task, the method, and the task's own settings of the method over the base."""
    document = suite.base.copy()
    for layer in (suite.tasks[task], suite.methods.get(method), suite.task_methods.get((task, method))):
        if layer is not None:
            lay_over(document, layer)
    return document


def _cross_grid(suite: Suite, document: Document, method: str, idle: dict[str, set[str]]) -> Iterator[dict[str, Any]]:
    """Cross the grid's values; what the combination's adapter has no key for is left out and noted in `idle`."""
    seen: set[str] = set()
    for values in itertools.product(*suite.grid.values()):
        grid = dict(zip(suite.grid, values, strict=True))
        adapter = str(grid.get("peft.method", document.get(("peft", "method"), "lora")))
        # Else a rank that head-only does not have would run the same configuration once for each value.
        for key in [key for key in grid if _is_of_another(key, adapter)]:
            idle.setdefault(key, set()).add(method)
            del grid[key]
        if (mark := repr(grid)) not in seen:
            seen.add(mark)
            yield grid


def _is_of_another(key: str, adapter: str) -> bool:
    """Tell whether a key belongs to other adapters only; one that none knows is left to the run's own check."""
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
    """Name a run `<task>-<method>-<grid>-s<seed>`; `shorts` is what `shorten_keys` calls the grid's keys.

    The name is a folder's, so it holds nothing that a shell trips over.
    """
    values = (f"{shorts[key]}={_write_value(value)}" if value != "" else key for key, value in grid.items())
    name = "-".join([task, method, *values, f"s{seed}"])
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{_digest(name)}"


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Call a grid key by its last word, where that is enough to tell it from the others."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _write_value(value: Any) -> str:
    """Write a value so that it can stand in a folder's name; a hash tells apart what this makes alike."""
    text = value if isinstance(value, str) else json.dumps(value)
    plain = re.sub(r"[^\w.+-]+", "_", text).strip("_")
    return plain if plain == text and len(plain) <= 40 else f"{plain[:30]}_{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
