"""Checks that plug-ins in a user's folder define what their kind requires, before a file is read with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from traceback import extract_tb
from typing import Any

from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.peft import AdapterSection
from utils.config.sections.training import PLUGIN_KEYS, training_section
from utils.core import registry
from utils.core.errors import ConfigError
from utils.metrics.metric import Metric

_NEEDED = {
    "adapters": ("attach", "save", "load"),
    "optimizers": ("build_optimizer",),
    "schedules": ("build_schedule",),
}
"""Functions that a plug-in of a kind has to define, in addition to its Config."""
_CONFIGS: Mapping[str, type[Section]] = {
    "adapters": AdapterSection, "datasets": DatasetSection, "optimizers": Section, "schedules": Section,
}  # fmt: skip


def add_extension(folder: Path) -> None:
    """Add a folder to the search for plug-ins.

    Raises:
        ConfigError: With everything that is wrong in its files.
    """
    try:
        added = registry.add_folder(folder)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        line = _name_line(error, folder.resolve())
        raise ConfigError(f"{folder}/__init__.py: {line}{type(error).__name__}: {error}") from error
    if added is None:
        return
    problems = [f"{added}: {each}" for each in _find_problems(added)]
    if problems:
        registry.remove_folder(added)
        raise ConfigError("; ".join(problems))


def _find_problems(folder: Path) -> Iterator[str]:
    found = registry.list_added(folder)
    if not found:
        yield "has no plug-in; they belong in adapters/, datasets/, metrics/, optimizers/ ... as in utils/"
    fields: dict[str, str] = {}
    for package in PLUGIN_KEYS.values():
        own = [name for name in registry.names(package) if (package, name) not in found]
        fields |= {key: f"{package}/{name}" for name in own for key in registry.load(package, name).Config.model_fields}
    for package, name in found:
        file = f"{package.replace('.', '/')}/{name}"
        try:
            plugin = registry.load(package, name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the user's code raises on import
            yield f"{file}: {_name_line(error, folder)}{type(error).__name__}: {error}"
            continue
        yield from (f"{file}: {each}" for each in _check_plugin(plugin, package, name, fields))


def _check_plugin(plugin: Any, package: str, name: str, fields: dict[str, str]) -> Iterator[str]:
    """Check one plug-in; `fields` holds the keys that earlier optimizers and schedules add to `training:`."""
    for function in _NEEDED.get(package, ()):
        if not callable(getattr(plugin, function, None)):
            yield f"defines no {function}"
    if package == "metrics" and not isinstance(plugin.METRIC, Metric):
        yield "its METRIC is not a Metric"
    kind = _CONFIGS.get(package)
    if kind is None:
        return
    if not (isinstance(plugin.Config, type) and issubclass(plugin.Config, kind)):
        yield f"its Config has to be a subclass of {kind.__name__}"
        return
    key = {"adapters": "method", "datasets": "name"}.get(package)
    if key is not None and registry.normalize(str(plugin.Config.model_fields[key].default)) != name:
        yield f'its Config needs {key}: Literal["{name}"] = "{name}"'
    if package in PLUGIN_KEYS.values():
        yield from _check_fields(plugin.Config, f"{package}/{name}", fields)


def _check_fields(config: type[Section], plugin: str, fields: dict[str, str]) -> Iterator[str]:
    """Check that the keys that a plug-in adds to `training:` are not taken."""
    for field in config.model_fields:
        if field in training_section().model_fields:
            yield f"{field} is a key of training: itself; give the setting another name"
        elif (other := fields.setdefault(field, plugin)) != plugin:
            yield f"{field} is already a setting of {other}; give it another name"


def _name_line(error: BaseException, folder: Path) -> str:
    """Return the line of the user's own file that raised the error."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [each.lineno for each in extract_tb(error.__traceback__) if str(folder) in each.filename]
    return f"line {lines[-1]}: " if lines else ""
