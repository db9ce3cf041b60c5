"""Chooses the class of every section, and reads the document into typed, frozen sections."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, create_model

from utils.cli.other_flags import PROGRAMS, explain_key
from utils.config.document import Document, SourceLocation
from utils.config.error_messages import MAX_SHOWN, explain_errors, find_misspelled, list_all, suggest
from utils.config.section import GENERATED, Section
from utils.config.sections.model import ModelSection
from utils.config.sections.peft import AdapterSection
from utils.config.sections.results import ResultsSection
from utils.config.sections.training import OURS, PLUGIN_KEYS, training_section
from utils.core import registry
from utils.core.errors import Code, Problem
from utils.data.dataset import find_dataset_plugin
from utils.data.row_files import is_local
from utils.run_config.older_names import TASK_SPELLINGS, OlderNames
from utils.tasks.sft.section import OURS as SFT_OURS
from utils.tasks.task import Task, choose_task, task_sections, task_types

_PLACEHOLDERS = {"model": {"name_or_path": "none/named"}, "": {"task_name": "none"}}
"""Values of required keys while looking for further mistakes; the run is rejected in any case."""


class Header(Section):
    """The keys at the top of the file."""

    task_name: str = Field(min_length=1)
    """Name of the run in tables; null: the file's name."""
    task_type: str
    """SEQ_CLS: classification and regression with HF Trainer, or a reward model if there is a section reward.
    CAUSAL_LM: supervised fine-tuning with TRL's SFTTrainer, or the task of another section: dpo, kto, grpo."""
    extensions: list[str] = []
    """Folders of your own plug-ins, laid out like utils/ (adapters/, datasets/, metrics/, optimizers/, schedules/,
    tasks/ ...), relative to this file; their code is run. A copy is kept in the run's folder. Folders of an extended
    file are searched as well."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of initialization, dropout and (unless training.data_seed is set) the data order."""


@cache
def header_class(types: tuple[str, ...]) -> type[Header]:
    """Build the class of the header, with the known values of task_type."""
    described = Field(description=Header.model_fields["task_type"].description)
    allowed: Any = Literal[types]
    return create_model("Header", __base__=Header, __cls_kwargs__=GENERATED, task_type=(allowed, described))


class SectionReader:
    """Reads one document, collecting all problems and notices."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self.mistaken: set[str] = set()
        """Dotted keys whose values could not be read; their sections are read without them."""
        self._unreadable: set[str] = set()
        self._classes: dict[str, type[Section]] = {}

    @property
    def task(self) -> type[Task] | None:
        """The task that the file asks for, or None."""
        return choose_task(self.document, self.document.get(("task_type",)))

    def read(self) -> dict[str, Section]:
        """Read the header and all sections; keys with mistakes are left out, so that they do not hide others.

        A section that cannot be read without its mistaken keys is missing in the result.
        """
        self._refuse_non_mappings()
        older = OlderNames(self.document)
        older.rewrite_sections()
        self._fill_defaults()
        read: dict[str, Section] = {}
        self._classes = self._choose_classes()
        for name, section in self._classes.items():
            older.rewrite_names(name, section)
        self._validate("", header_class(task_types()), read)
        for name, section in self._classes.items():
            self._validate(name, section, read)
        self._refuse_unknown_sections()
        self.problems += older.problems
        self.notices += older.notices
        return read

    def _refuse_non_mappings(self) -> None:
        """Remove sections that are not mappings; null is an empty section, or no adapter for `peft`."""
        for name in list_sections():
            value = self.document.get((name,))
            if value is None and name != "peft" and self.document.has((name,)):
                self.document.data[name] = {}
            elif value is None and self.document.has((name,)):
                self.document.remove((name,))
            elif value is not None and not isinstance(value, dict):
                self._report(
                    name, f"must be a section: write its keys below it, indented; found {value!r}", "wrong_value"
                )
                self.document.remove((name,))
                self._unreadable.add(name)

    def _fill_defaults(self) -> None:
        """Set defaults that depend on the file's name, and normalize the spelling of task_type."""
        document = self.document
        stem = Path(document.source).stem
        if document.get(("task_name",)) is None:
            document.set(("task_name",), stem, SourceLocation(document.source))
        for section in (document.data, document.get(("peft",), {})):
            if isinstance(task_type := section.get("task_type"), str):
                section["task_type"] = TASK_SPELLINGS.get(task_type.lower(), task_type)
        if document.get(("training", "output_dir")) is None:
            document.set(("training", "output_dir"), f"./outputs/{stem}", SourceLocation(document.source))

    def _choose_classes(self) -> dict[str, type[Section]]:
        classes: dict[str, type[Section] | None] = {
            "model": ModelSection,
            "peft": self._peft_class(),
            "dataset": None if "dataset" in self._unreadable else self._dataset_class(),
            "training": training_section(**{key: self.document.get(("training", key)) for key in PLUGIN_KEYS}),
            "results": ResultsSection,
        }
        read = self.task.sections() if self.task is not None else {}
        classes |= {
            name: build() for name, build in task_sections().items() if name in read or self.document.has((name,))
        }
        return {
            name: section for name, section in classes.items() if section is not None and name not in self._unreadable
        }

    def _peft_class(self) -> type[Section] | None:
        method = self.document.get(("peft", "method"), "none" if not self.document.has(("peft",)) else "lora")
        if method is None or not isinstance(method, str):
            method = "none" if method is None else str(method)
        if not registry.has("adapters", method):
            names = [name.replace("_", "-") for name in registry.names("adapters")]
            self._report("peft.method", f"no method called {method}{suggest(method, names)}", "unknown_name")
            return None
        section: type[Section] = registry.load("adapters", method).Config
        if self.document.has(("peft",)):
            self.document.data["peft"]["method"] = section.model_fields["method"].default
        return section

    def _dataset_class(self) -> type[Section] | None:
        name = self.document.get(("dataset", "name"))
        path = self.document.get(("dataset", "path"))
        if name is None and path is not None and self.document.has(("dataset",)):
            name = "custom"
        if not isinstance(name, str) or not name.strip():
            found = "missing" if name in (None, "") else f"{name!r} is no name"
            message = f"{found}; name a dataset{suggest('', registry.names('datasets'))}"
            self._report("dataset.name", message, "missing" if name in (None, "") else "wrong_value")
            return None
        plugin = find_dataset_plugin(name) or ("custom" if "/" in name or is_local(name) else name)
        if not registry.has("datasets", plugin):
            message = f"no dataset called {name}{suggest(name, registry.names('datasets'))}"
            self._report("dataset.name", message, "unknown_name")
            return None
        dataset = self.document.data["dataset"]
        is_upper = self.document.overrides(("dataset", "name"), ("dataset", "path"))
        if plugin != registry.normalize(name) and (path is None or is_upper):
            dataset["path"] = name  # rows named over those of an extended file
        dataset["name"] = registry.normalize(plugin)
        section: type[Section] = registry.load("datasets", plugin).Config
        return section

    def _validate(self, name: str, section: type[Section], read: dict[str, Section]) -> None:
        data = self.document.data
        raw: Any = data.get(name, {}) if name else {key: data[key] for key in Header.model_fields if key in data}
        try:
            read[name] = section.model_validate(raw)
        except ValidationError as error:
            path = (name,) if name else ()
            self.problems += explain_errors(error, section, path, self.document, _locate_keys(self._classes))
            wrong = {str(details["loc"][0]) for details in error.errors() if details["loc"]}
            self.mistaken |= {".".join((*path, key)) for key in wrong} or {name}
            kept = {key: value for key, value in raw.items() if key not in wrong} if isinstance(raw, dict) else {}
            with suppress(ValidationError):
                read[name] = section.model_validate({**_PLACEHOLDERS.get(name, {}), **kept})

    def _refuse_unknown_sections(self) -> None:
        known = [*list_sections(), *Header.model_fields, "extends"]
        if not (unknown := [key for key in self.document.data if key not in known]):
            return
        theirs = next((name for name, signs in PROGRAMS.items() if len(signs.intersection(unknown)) > 1), None)
        if theirs:
            page = f"docs/from_{theirs.replace('-', '').lower()}.md"
            message = f"the keys are {theirs}'s; {page} says how they are written here"
            self.problems.insert(0, Problem(message, "", self.document.place_of((unknown[0],)), "unknown_key"))
        for key in unknown[:MAX_SHOWN]:
            near = find_misspelled(key, known)
            message = f"unknown section{f'; did you mean {near}?' if near else '' if theirs else list_all(known)}"
            place = _locate_keys(self._classes).get(key) or explain_key(key)
            self._report(key, f"not a section; {place}" if place else message, "unknown_key")
        if (left := len(unknown) - MAX_SHOWN) > 0:
            self._report("", f"{left:,} more unknown sections; only the first are shown", "unknown_key")

    def _report(self, path: str, message: str, code: Code) -> None:
        self.problems.append(self.document.problem(path, message, code))


def _locate_keys(classes: dict[str, type[Section]]) -> dict[str, str]:
    """Return, for every key of every section, where it belongs."""
    homes = {key: f"{key} belongs to {name}:" for name, section in classes.items() for key in section.model_fields}
    for key, package in PLUGIN_KEYS.items():
        for name in registry.names(package):
            fields = registry.load(package, name).Config.model_fields
            homes |= {field: f"{field} belongs to training.{key}: {name}" for field in fields if field not in homes}
    top = {key: f"{key} belongs at the top of the file" for key in Header.model_fields}
    refused = {key: reason for key, reason in {**OURS, **SFT_OURS, **AdapterSection.OWNED}.items() if reason}
    return {**homes, **top, **refused}


def list_sections() -> tuple[str, ...]:
    """Return every section that a file may have, in the order in which they are read."""
    return ("model", "peft", "dataset", "training", *task_sections(), "results")
