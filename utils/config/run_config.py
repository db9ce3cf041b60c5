"""The whole configuration as one typed object, with its resolved YAML form and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from utils.config.document import Document
from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.evaluation import EvaluationSection
from utils.config.sections.generation import GenerationSection
from utils.config.sections.model import ModelSection
from utils.config.sections.peft import AdapterSection
from utils.config.sections.results import ResultsSection
from utils.config.sections.training import DEFAULT_ROWS, OwnTrainingSection, WandbSection
from utils.config.yaml_text import dump_yaml
from utils.core import registry
from utils.core.errors import ConfigError

_S = TypeVar("_S", bound=Section)

EXTENSIONS = "extensions"
"""Subfolder of a run that holds copies of its extensions."""
_REPORTING = frozenset(
    {"training.run_name", "training.wandb", *(f"training.wandb.{name}" for name in WandbSection.model_fields)}
)

RESUMABLE_KEYS = _REPORTING | frozenset(
    f"training.{key}"
    for key in (
        "num_train_epochs", "max_steps", "save_steps", "save_strategy", "save_total_limit", "eval_steps",
        "logging_steps", "logging_dir", "report_to", "disable_tqdm", "output_dir", "on_full_disk", "on_divergence",
        "try_longest_batch",
        "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory",
        "dataloader_persistent_workers",
    )
) | {
    "results.formats", "results.language", "evaluation.steps", "evaluation.at_end", "evaluation.sets",
    "evaluation.max_samples", "generation.batch_size", "generation.max_batch_tokens",
}  # fmt: skip
"""Keys that may change on resume; every other key affects the run's numbers."""

BEST_KEYS = frozenset(
    {
        "training.load_best_model_at_end", "training.metric_for_best_model", "training.early_stopping_patience",
        "training.early_stopping_threshold",
    }
)  # fmt: skip
"""Keys that may also change on resume if scores of generated answers choose the best checkpoint: all are on file."""

_NOT_IN_FINGERPRINT = _REPORTING | frozenset(
    {
        "training.output_dir", "training.logging_dir", "training.report_to", "training.logging_steps",
        "training.push_to_hub", "training.hub_files", "training.hub_model_id", "training.hub_private_repo",
        "training.hub_strategy", "training.hub_revision", "training.hub_always_push",
        "training.disable_tqdm", "training.save_total_limit", "results.formats", "results.language", "task_name",
        "peft.init_cache",
    }
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """One run, read and validated."""

    source: str
    """File it was read from."""
    task_name: str
    task_type: str
    seed: int
    model: ModelSection
    peft: AdapterSection
    dataset: DatasetSection
    training: OwnTrainingSection
    results: ResultsSection
    task: str
    """Task (a folder of `utils/tasks`) selected by task_type and the sections present."""
    length_key: str
    """Dotted key of the setting that limits a row's length in tokens."""
    task_sections: Mapping[str, Section]
    """Sections that only this task reads, such as `sft`, `generation` or `evaluation`."""
    extensions: tuple[str, ...]
    """Absolute paths of the user's plug-in folders."""
    arguments: dict[str, Any]
    """Arguments for TrainingArguments: the file's fields over our defaults."""
    notices: tuple[str, ...] = ()
    """Notes on keys read under an older name or ignored."""
    warnings: tuple[str, ...] = ()
    """Warnings about settings without effect."""
    document: Document = field(default_factory=Document, compare=False, repr=False)
    """The values as written, with their locations."""

    def place_of(self, key: str) -> str:
        """Return `file:line` of a dotted key, or of the nearest enclosing key that was written."""
        return self.document.place_of(tuple(key.split(".")))

    def locate(self, error: ConfigError) -> ConfigError:
        """Add file and line to the problems of an error that name only their key."""
        places = ((each, each.place or (self.place_of(each.path) if each.path else "")) for each in error.problems)
        return ConfigError([replace(each, place=place) for each, place in places])

    @contextmanager
    def locating_errors(self) -> Iterator[None]:
        """Add file and line to a ConfigError of the code inside."""
        try:
            yield
        except ConfigError as error:
            raise self.locate(error) from error

    def find_section(self, kind: type[_S]) -> _S | None:
        """Return the section of this class, or None if the run has none."""
        return next((each for each in self._sections.values() if isinstance(each, kind)), None)

    def section_named(self, name: str) -> Section | None:
        """Return a section by its name in the file, or None if the run has none."""
        return self._sections.get(name)

    def section(self, kind: type[_S]) -> _S:
        """Return the section of this class, which the run must have: `config.section(InstructionSection)`."""
        found = self.find_section(kind)
        assert found is not None, f"task {self.task} reads no {kind.__name__}"
        return found

    @property
    def generation(self) -> GenerationSection:
        """The `generation:` section, or its defaults if the task has none."""
        return self.find_section(GenerationSection) or GenerationSection()

    @property
    def evaluation(self) -> EvaluationSection:
        """The `evaluation:` section; for a task that generates nothing, one that never evaluates."""
        return self.find_section(EvaluationSection) or EvaluationSection(at_end=False)

    @property
    def max_length(self) -> int:
        """Maximum number of tokens in a row."""
        section, _, key = self.length_key.partition(".")
        found: int = getattr(self.task_sections.get(section, self.dataset), key)
        return found

    @property
    def _sections(self) -> dict[str, Section]:
        common = {name: getattr(self, name) for name in ("model", "peft", "dataset", "training", "results")}
        return {**common, **self.task_sections}

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved configuration, which reads back as the same run."""
        extended: dict[str, Any] = {"extensions": list(self.extensions)} if self.extensions else {}
        sections: dict[str, Any] = {
            "task_name": self.task_name,
            "task_type": self.task_type,
            "seed": self.seed,
            **extended,
            "model": self.model.model_dump(),
            "peft": self.peft.model_dump(exclude={"task_type"}),
            "dataset": self.dataset.model_dump(),
            "training": {**self.training.dump(), **self._process_independent_arguments()},
            "results": self.results.model_dump(),
        }
        sections |= {name: section.dump() for name, section in self.task_sections.items()}
        return {name: _normalize_numbers(section) for name, section in sections.items()}

    def _process_independent_arguments(self) -> dict[str, Any]:
        """Drop arguments that depend on the number of processes, so that changing it does not make another run."""
        if not self.training.global_batch_size:
            return self.arguments
        ceiling = "per_device_train_batch_size"
        kept = {name: self.arguments[name] for name in self.arguments if name != "gradient_accumulation_steps"}
        return {**kept, ceiling: self.training.arguments.get(ceiling, DEFAULT_ROWS)}

    def to_yaml(self, in_run: bool = False) -> str:
        """Return the resolved configuration as YAML; `in_run` points `extensions` at the copies in the run's folder."""
        if in_run and self.extensions:
            return replace(
                self, extensions=tuple(f"{EXTENSIONS}/{Path(each).name}" for each in self.extensions)
            ).to_yaml()
        return dump_yaml(self.to_dict())

    def hash_extensions(self) -> dict[str, str]:
        """Hash the files of each extension, by its name."""
        return {Path(each).name: registry.hash_folder(Path(each)) for each in self.extensions}

    def fingerprint(self, resolved: dict[str, Any] | None = None) -> str:
        """Hash everything that affects the run's numbers; names, folders and logging are excluded.

        `resolved` is the result of `to_dict`, if the caller has it.
        """
        flat = flatten(resolved if resolved is not None else self.to_dict())
        if self.extensions:
            flat["extensions"] = self.hash_extensions()
        irrelevant = _irrelevant_keys(flat)
        kept = {key: value for key, value in flat.items() if key not in irrelevant}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find_differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compare two resolved configurations, ignoring keys that cannot affect the numbers.

    A key missing from the old one, because an earlier version wrote it, counts as its default.

    Returns:
        The old and new value by dotted key, None where a key is absent.
    """
    before, after = flatten(_fill_defaults(old, new)), flatten(new)
    for each in (before, after):
        each.pop("extensions", None)  # compared by content, in inputs.json
    keys = sorted((before.keys() | after.keys()) - (_irrelevant_keys(before) & _irrelevant_keys(after)))
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _fill_defaults(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Fill keys missing from an older resolved configuration with their defaults."""
    classes: dict[str, type[Section]] = {
        "model": ModelSection, "training": OwnTrainingSection, "results": ResultsSection,
        "peft": registry.load("adapters", new["peft"]["method"]).Config,
        "dataset": registry.load("datasets", new["dataset"]["name"]).Config,
    }  # fmt: skip
    for task in registry.names("tasks"):
        classes |= {name: build() for name, build in registry.load("tasks", task).Task.sections().items()}
    filled = dict(old)
    for section in classes.keys() & new.keys():
        if not isinstance(old.get(section), dict):  # written by an older task, or damaged
            continue
        missing = new[section].keys() - old[section].keys()
        fields = {name: each for name, each in classes[section].model_fields.items() if name in missing}
        defaults = {name: each.get_default(call_default_factory=True) for name, each in fields.items()}
        plain = {name: each.model_dump() if isinstance(each, Section) else each for name, each in defaults.items()}
        filled[section] = {**_normalize_numbers(plain), **old[section]}
    return filled


def _irrelevant_keys(flat: dict[str, Any]) -> frozenset[str]:
    """Return the keys that cannot affect the numbers, including how a global batch is split."""
    split = {"training.per_device_train_batch_size"} if flat.get("training.global_batch_size") else set()
    return _NOT_IN_FINGERPRINT | split


def _normalize_numbers(value: Any) -> Any:
    """Normalize 16.0 to 16, so that a default equals the same number read from a file."""
    if isinstance(value, dict):
        return {key: _normalize_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normalize_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
