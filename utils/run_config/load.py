"""Loads and checks a run's file, step by step and continuing after failures, to report all mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from utils.config.document import Document
from utils.config.run_config import RunConfig
from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.config.sections.model import ModelSection
from utils.config.sections.peft import AdapterSection
from utils.config.sections.results import ResultsSection
from utils.config.sections.training import DEFAULT_ROWS, OwnTrainingSection
from utils.core.errors import ConfigError, Problem
from utils.run_config.base_rules import resolve_adapter
from utils.run_config.devices import Machine, choose_bf16
from utils.run_config.kinds import require_run
from utils.run_config.layers import read_layers
from utils.run_config.machine import find_unmet
from utils.run_config.reader import Header, SectionReader
from utils.run_config.rules import (
    check_files,
    check_resolved,
    check_sections,
    find_unused_settings,
)
from utils.tasks.task import Task
from utils.trainer.launch import count_launched, split_batch

TITLES = ("reads as YAML", "keys and values", "combinations", "files", "every setting has an effect")
MACHINE = "this machine"


@dataclass
class Check:
    """One numbered check of a file."""

    title: str
    """Its key among the sentences of utils/results/labels.py."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    num: int = 0
    """What the title counts, if anything."""


@dataclass
class Inspection:
    """The result of inspecting a file."""

    checks: list[Check]
    config: RunConfig | None = None
    """The configuration, if no check failed."""
    language: Literal["en", "zh"] = "en"
    """Value of `results.language`, if it is valid."""

    @property
    def problems(self) -> list[Problem]:
        """All problems, in the order of the checks."""
        return [problem for check in self.checks for problem in check.problems]


def inspect_run_config(
    path: str | Path, overrides: Sequence[str] = (), files: bool = True, may_extend: bool = True
) -> Inspection:
    """Inspect a run's file; arguments are as for `load_run_config`."""
    try:
        document, notices = read_layers(path, overrides, may_extend)
        require_run(document, path)
    except ConfigError as error:
        return Inspection([Check(TITLES[0], error.problems)])
    return inspect_document(document, notices, files)


def inspect_document(document: Document, notices: Sequence[str] = (), files: bool = True) -> Inspection:
    """Inspect a configuration that is already read or assembled, with the `notices` from doing so."""
    _, typed, combined, found, effective = checks = [Check(title) for title in TITLES]
    reader = SectionReader(document)
    read = reader.read()
    language = results.language if isinstance(results := read.get("results"), ResultsSection) else "en"
    typed.problems += reader.problems
    crossed = [*check_sections(read, document)]
    if files:
        found.problems += _drop_consequences(check_files(read, document), reader.mistaken)
        crossed += resolve_adapter(read, document, reader.notices)
    if reader.problems or crossed or found.problems:
        if reader.task is not None and _can_be_composed(read, reader.task):
            config = _compose(document, read, reader.task, ())
            crossed += check_resolved(config, reader.task, document, files)
        combined.problems += _drop_consequences(crossed, reader.mistaken)
        return Inspection(checks[:4], None, language)
    assert reader.task is not None, "an unknown task_type is a mistake"
    config = _compose(document, read, reader.task, (*notices, *reader.notices))
    combined.problems += check_resolved(config, reader.task, document, files)
    effective.warnings += find_unused_settings(config, reader.task, document)
    config = replace(config, warnings=tuple(effective.warnings))
    return Inspection(checks, None if combined.problems else config, language)


def _can_be_composed(read: dict[str, Section], task: type[Task]) -> bool:
    """Return whether sections with mistakes still form a run whose other rules can be checked."""
    header, dataset = read.get(""), read.get("dataset")
    if not isinstance(header, Header) or not isinstance(dataset, DatasetSection):
        return False
    needed = ("model", "peft", "training", "results", *task.sections())
    return task.row_type() in dataset.TASK_TYPES and all(name in read for name in needed)


def _drop_consequences(problems: Iterable[Problem], mistaken: set[str]) -> list[Problem]:
    """Remove problems that may follow from a mistake already reported, as they concern or mention its key."""
    words = {key.rpartition(".")[2] for key in mistaken}
    return [
        problem
        for problem in dict.fromkeys(problems)
        if problem.path not in mistaken and not words & set(re.findall(r"\w+", problem.message))
    ]


def check_machine(config: RunConfig) -> Check:
    """Warn of requirements that this machine does not meet; the file may be for another machine."""
    found = find_unmet(config, Machine.look())
    return Check(MACHINE, warnings=[f"{config.place_of(key)}  {key}: {message}" for key, message in found])


def load_run_config(
    path: str | Path, overrides: Sequence[str] = (), files: bool = True, may_extend: bool = True
) -> RunConfig:
    """Read, resolve and check one run's configuration, without slow imports.

    Args:
        path: The YAML file.
        overrides: `key=value` arguments from the command line, which take precedence.
        files: Whether to check that the files and folders it names exist.
        may_extend: Whether it may bring its own code (`extensions:`); false for files from others.

    Raises:
        ConfigError: With all mistakes, each with its location and remedy.
    """
    inspection = inspect_run_config(path, overrides, files, may_extend)
    if inspection.config is None:
        raise ConfigError(inspection.problems)
    return inspection.config


def _compose(document: Document, read: dict[str, Section], task: type[Task], notices: tuple[str, ...]) -> RunConfig:
    header, training = cast("Header", read[""]), cast("OwnTrainingSection", read["training"])
    dataset = cast("DatasetSection", read["dataset"])
    peft = cast("AdapterSection", read["peft"])
    rate = peft.DEFAULT_LEARNING_RATE
    arguments: dict[str, Any] = resolve_arguments(training, task, header.seed, task.own_metric(read), rate)
    if rate is not None and "learning_rate" not in training.arguments:
        said = f"training.learning_rate is not set; {rate:g} is taken, the default of peft.method: {peft.method}"
        notices = (*notices, said)
    if training.arguments.get("bf16") == "auto":
        notices = (*notices, f"training.bf16: auto is {str(arguments['bf16']).lower()} on this machine")
    ceiling = training.arguments.get("per_device_train_batch_size", DEFAULT_ROWS)
    rows = arguments.get("per_device_train_batch_size", DEFAULT_ROWS)
    if rows != ceiling:
        said = f"training.per_device_train_batch_size: {rows} of at most {ceiling} are taken, so that batches add up to"
        notices = (*notices, f"{said} training.global_batch_size ({training.global_batch_size})")
    return RunConfig(
        source=document.source,
        task_name=header.task_name,
        task_type=header.task_type,
        seed=header.seed,
        extensions=tuple(header.extensions),
        model=cast("ModelSection", read["model"]),
        peft=peft,
        dataset=dataset,
        training=training,
        results=cast("ResultsSection", read["results"]),
        task=task.name(),
        length_key=task.LENGTH_KEY,
        task_sections={name: read[name] for name in task.sections()},
        arguments=arguments,
        notices=notices,
        document=document,
    )


def resolve_arguments(
    section: OwnTrainingSection, task: type[Task], seed: int, metric: str | None, learning_rate: float | None = None
) -> dict[str, Any]:
    """Merge the file's settings over our defaults to the arguments of TrainingArguments.

    Args:
        section: The section as written.
        task: The task whose defaults are used.
        seed: The run's seed, also of the data order unless data_seed is set.
        metric: The dataset's own metric, which chooses the best checkpoint; None: the loss.
        learning_rate: The method's own default; None: transformers' default.
    """
    ours: dict[str, Any] = {
        "report_to": "tensorboard",
        "logging_steps": 10,
        "save_total_limit": 2,
        "data_seed": seed,
        **task.DEFAULTS,
    }
    if learning_rate is not None:
        ours["learning_rate"] = learning_rate
    resolved = {**ours, **section.arguments}
    if resolved.get("bf16") == "auto":
        resolved |= choose_bf16(resolved)
    if resolved.get("gradient_accumulation_steps", 1) is None:
        del resolved["gradient_accumulation_steps"]
    if section.global_batch_size:
        ceiling = resolved.get("per_device_train_batch_size", DEFAULT_ROWS)
        rows, steps = split_batch(section.global_batch_size, ceiling, count_launched()) or (ceiling, 1)
        resolved |= {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
    strategy = resolved.get("eval_strategy", "no")
    resolved.setdefault("save_strategy", strategy if strategy != "no" else "epoch")
    if strategy == "steps":
        resolved["eval_steps"] = resolved.get("eval_steps") or resolved["logging_steps"]
        resolved.setdefault("save_steps", resolved["eval_steps"])
    comparable = strategy != "no" and resolved["save_strategy"] in (strategy, "best")
    resolved.setdefault("load_best_model_at_end", task.KEEPS_BEST and comparable)
    compares = resolved["load_best_model_at_end"] or resolved["save_strategy"] == "best"
    if compares or section.early_stopping_patience:
        resolved["metric_for_best_model"] = resolved.get("metric_for_best_model") or metric or "loss"
    return resolved
