"""Checks that plug-ins in a user's folder define what their kind requires, before a file is read with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import getattr_static
from pathlib import Path
from typing import Any

from pydantic import PydanticUndefinedAnnotation, ValidationError

from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.peft import AdapterSection
from utils.config.sections.training import PLUGIN_KEYS, training_section
from utils.core import registry
from utils.core.errors import ConfigError
from utils.core.library_errors import describe
from utils.metrics.metric import Metric

_NEEDED: Mapping[str, Mapping[str, str]] = {
    "adapters": {"attach": "model, config, context", "save": "model, folder", "load": "folder, load_base"},
    "optimizers": {"build_optimizer": "model, groups, args, config"},
    "schedules": {"build_schedule": "optimizer, num_training_steps, args, config"},
    "generation.backends": {
        "check_prompts": "self, prompts", "explain_refusal": "self, num_tokens", "plan_batches": "self, prompts",
        "generate_batch": "self, prompts, batch, numbers", "stream": "self, prompt, show",
    },
}  # fmt: skip
"""Functions that a plug-in of a kind has to define, in addition to its Config, and what they take; of a Backend, its
methods."""
_SCORED = "predictions, references"
_DESCRIBE = ("describe_instructions", "describe_classification")
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
        place = registry.find_line(error, folder.resolve()) or folder / "__init__.py"
        raise ConfigError(f"{place}: {describe(error)}") from error
    if added is None:
        return
    if problems := list(_find_problems(added)):
        registry.remove_folder(added)
        raise ConfigError("; ".join(problems))


def _find_problems(folder: Path) -> Iterator[str]:
    found = registry.list_added(folder)
    if not found:
        yield f"{folder}: has no plug-in; they belong in adapters/, datasets/, metrics/, optimizers/ ... as in utils/"
    fields: dict[str, str] = {}
    for package in PLUGIN_KEYS.values():
        own = [name for name in registry.names(package) if (package, name) not in found]
        fields |= {key: f"{package}/{name}" for name in own for key in registry.load(package, name).Config.model_fields}
    for package, name in found:
        file = folder.joinpath(*package.split("."), name)
        try:
            plugin = registry.load(package, name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the user's code raises on import
            yield f"{registry.find_line(error, folder) or file}: {describe(error)}"
            continue
        yield from (f"{file}: {each}" for each in _check_plugin(plugin, package, name, fields))


def _check_plugin(plugin: Any, package: str, name: str, fields: dict[str, str]) -> Iterator[str]:
    """Check one plug-in; `fields` holds the keys that earlier optimizers and schedules add to `training:`."""
    yield from _check_functions(plugin, package)
    if package == "metrics" and not isinstance(plugin.METRIC, Metric):
        yield "its METRIC is not a Metric"
    elif package == "metrics" and (wrong := registry.explain_call("score", plugin.METRIC.score, _SCORED)):
        yield wrong
    kind = _CONFIGS.get(package)
    if kind is None:
        return
    if not (isinstance(plugin.Config, type) and issubclass(plugin.Config, kind)):
        yield f"its Config has to be a subclass of {kind.__name__}"
        return
    yield from _check_types(plugin.Config)
    key = {"adapters": "method", "datasets": "name"}.get(package)
    if key is not None and registry.normalize(str(plugin.Config.model_fields[key].default)) != name:
        yield f'its Config needs {key}: Literal["{name}"] = "{name}"'
    if package in PLUGIN_KEYS.values():
        yield from _check_fields(plugin.Config, f"{package}/{name}", fields)


def _check_functions(plugin: Any, package: str) -> Iterator[str]:
    needed = dict(_NEEDED.get(package, {}))
    if package == "datasets":
        needed = {name: "config" for name in _DESCRIBE if hasattr(plugin, name)}
        if not needed:
            yield f"defines neither {' nor '.join(_DESCRIBE)}"
    for function, taken in needed.items():
        owner = getattr(plugin, "Backend", plugin)
        found = getattr(owner, function, None)
        if isinstance(getattr_static(owner, function, None), staticmethod | classmethod):
            taken = taken.removeprefix("self, ")
        if not callable(found):
            yield f"defines no {function}"
        elif wrong := registry.explain_call(function, found, taken):
            yield wrong


def _check_fields(config: type[Section], plugin: str, fields: dict[str, str]) -> Iterator[str]:
    """Check that the keys that a plug-in adds to `training:` are not taken."""
    for field in config.model_fields:
        if field in training_section().model_fields:
            yield f"{field} is a key of training: itself; give the setting another name"
        elif (other := fields.setdefault(field, plugin)) != plugin:
            yield f"{field} is already a setting of {other}; give it another name"


def _check_types(config: type[Section]) -> Iterator[str]:
    """Check that the types of a Config's own fields exist, and that the defaults have them."""
    fields = {name: field for name, field in config.model_fields.items() if name in config.__annotations__}
    try:
        config.model_rebuild()
    except PydanticUndefinedAnnotation as error:
        yield f"its Config has a field of the type {error.name}, which its file neither imports nor defines"
        return
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    try:
        config.model_validate({name: each for name, each in defaults.items() if not fields[name].is_required()})
    except ValidationError as error:
        for each in error.errors():
            if each["loc"] and each["loc"][0] in defaults and each["type"] != "missing":
                yield f"{each['loc'][0]}: its default {each['input']!r} is not allowed: {each['msg']}"
