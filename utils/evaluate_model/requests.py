"""The sets that the command line requests with `--set`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from utils.config.error_messages import suggest
from utils.config.sections.evaluation import SetSection, as_section, label_of
from utils.config.yaml_text import parse_value
from utils.core import registry
from utils.core.errors import UserError
from utils.core.texts import parse_split
from utils.data.dataset import find_dataset_plugin, load_dataset_plugin
from utils.data.row_files import is_local
from utils.tasks.task import default_task


@dataclass(frozen=True)
class OwnSets:
    """Sets that a run knows by name."""

    name: str
    """The run's `dataset.name`."""
    labelled: Mapping[str, SetSection] = field(default_factory=dict)
    """The sets of its configuration, by label."""
    task_type: str = "CAUSAL_LM"
    """For SEQ_CLS, an otherwise unknown name is a split of the run's own dataset."""


def read_requests(words: Sequence[str], own: OwnSets | None) -> tuple[SetSection, ...]:
    """Read every `--set`; `own` has the run's sets, None for a model without a run.

    Raises:
        UserError: A value names nothing that could be a set, or two results would have the same label.
    """
    sections = tuple(_read_word(word, own) for word in words)
    labels = [each.resolved_label for each in sections]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(
            f"--set: two sets are named {twice[0]}; give one of them another label: '{{name: ..., label: ...}}'"
        )
    return sections


def _read_word(word: str, own: OwnSets | None) -> SetSection:
    section = _parse_mapping(word) if word.lstrip().startswith("{") else _parse_word(word, own)
    plugin = find_dataset_plugin(section.name)
    for path in (section.path, None if plugin else section.name):
        if path and is_local(path) and not os.path.exists(os.path.expanduser(path)):
            raise UserError(f"--set {word}: {path}: no such file or folder; paths start at the working directory")
    if plugin is None and not _is_path(section.name):
        known = suggest(section.name, registry.names("datasets"))
        raise UserError(f"--set {word}: {section.name} is neither a dataset nor a hub id, file or folder{known}")
    if own is None or plugin != registry.normalize(own.name):
        _require_subset(word, section, plugin)
    kinds = load_dataset_plugin(plugin).Config.TASK_TYPES if plugin is not None else ()
    if own is not None and kinds and own.task_type not in kinds:
        raise UserError(f"--set {word}: {plugin} is for task_type {' or '.join(kinds)}, the run's is {own.task_type}")
    return section


def _parse_mapping(word: str) -> SetSection:
    try:
        return as_section(parse_value(word))
    except ValueError as error:
        raise UserError(f"--set {word}: {error}") from None


def _parse_word(word: str, own: OwnSets | None) -> SetSection:
    if own is not None and word in own.labelled:
        return own.labelled[word]
    if not word.strip():
        raise UserError("--set: no name given; name a dataset, file or split, or leave --set out for the run's own")
    word, keys = _split_keys(word)
    name, subset, split = _split_word(word)
    if (
        own is not None
        and not default_task(own.task_type).GENERATES
        and name == word
        and find_dataset_plugin(name) is None
        and not _is_path(name)
    ):
        name, split = "", name
    if not name:
        if own is None:
            raise UserError(f"--set {word}: names no set; write the set before the @: gsm8k{word}")
        given = {"name": own.name, "subset": subset, "split": split, "label": _label(split or "own")}
        return _build(word, {**given, **keys})
    subsets = subset.split(",") if subset and "," in subset else None
    label = _label(label_of(name), subset, split) if not subsets and (subset or split) else None
    parts = {"subset": subset} if subsets is None else {"subsets": subsets}
    path = {"path": name, "label": label or label_of(name)} if "name" in keys and _is_path(name) else {}
    return _build(word, {"name": name, "split": split, "label": label, **parts, **path, **keys})


def _split_keys(word: str) -> tuple[str, dict[str, Any]]:
    """Split `FILE?key=value&key=value`: keys of a set, or of its dataset's section; values are YAML."""
    name, mark, rest = word.partition("?")
    if not mark or os.path.exists(os.path.expanduser(word)):
        return word, {}
    keys: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for part in rest.split("&"):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise UserError(f"--set {word}: {part!r} is no key=value; write {name}?answer_column=solution&label=mine")
        try:
            (keys if key in SetSection.model_fields else options)[key] = parse_value(value)
        except ValueError as error:
            raise UserError(f"--set {word}: {key}: {error}") from None
    return name, {**keys, **({"dataset": options} if options else {})}


def _split_word(word: str) -> tuple[str, str | None, str | None]:
    """Split `name:subset@split`, or `name:one,other@split`, unless it is an existing path."""
    if os.path.exists(os.path.expanduser(word)):
        return word, None, None
    name, at, split = word.rpartition("@")
    if not at:
        name, split = word, ""
    elif not split:
        raise UserError(f"--set {word}: no split after the @; write {name}@test")
    if split:
        try:
            parse_split(split)
        except ValueError as error:
            raise UserError(f"--set {word}: {error}") from None
    subset = None
    if (match := re.fullmatch(r"(.*):([\w.,-]+)", name)) and not os.path.exists(os.path.expanduser(name)):
        name, subset = match.groups()
    return name, subset, split or None


def _build(word: str, given: dict[str, Any]) -> SetSection:
    try:
        return as_section(given)
    except ValueError as error:
        raise UserError(f"--set {word}: {error}") from None


def _label(*parts: str | None) -> str:
    """Make a label of the given parts: letters, digits, '.', '_' and '-'."""
    joined = "_".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("._-") for part in parts if part)
    return joined or "set"


def _is_path(name: str) -> bool:
    return "/" in name or is_local(name)


def _require_subset(word: str, section: SetSection, plugin: str | None) -> None:
    """Require the subset of a dataset that has no default, such as glue."""
    subset = load_dataset_plugin(plugin).Config.model_fields["subset"] if plugin else None
    if section.subset is None and subset is not None and subset.is_required():
        known = ", ".join(f"{section.name}:{name}" for name in get_args(subset.annotation))
        raise UserError(f"--set {word}: which of its sets? {known}")
