"""The model that is evaluated: a trained run, one of its checkpoints, or a model as it was published."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from utils.config.run_config import RunConfig
from utils.config.sections.evaluation import EvaluationSection, SetSection
from utils.config.yaml_text import read_overrides
from utils.core.errors import ModelError, UserError
from utils.data.row_files import is_row_file
from utils.evaluate_model.overrides import (
    build_model_config,
    check_overrides,
    find_task_type,
    require_local_rows,
)
from utils.evaluate_model.requests import OwnSets, read_requests
from utils.modeling.consent import NO_CONSENT, Consent
from utils.results.json_file import read_json
from utils.results.provenance import PROVENANCE_FILE
from utils.results.record import RunRecord, read_record
from utils.run_config import load_run_config
from utils.runs.own_folder import require_no_links_out
from utils.runs.reading import TrainedModel, read_run_folder, refuse_own_folder, require_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.modeling.labels import HeadSpec

_LIMIT = ("dataset", "max_eval_samples")


@dataclass(frozen=True)
class Job:
    """Sets that are asked by one configuration."""

    config: RunConfig
    sections: tuple[SetSection, ...] | None
    """None: the sets of the configuration."""
    max_eval_samples: int | None = None
    """Rows of each set, where the command line says so: a file that is named is else scored whole."""


class ModelRef(Protocol):
    """A model, where its results go, and what is known of it."""

    jobs: tuple[Job, ...]
    root: Path
    """The folder of the results' folders."""
    record: RunRecord | None
    """What the run said of itself."""

    @property
    def trained_config(self) -> RunConfig | None:
        """The configuration that it was trained with, without what is overridden now; None: a plain model."""

    @property
    def title(self) -> str:
        """Name it for a reader."""

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Classes in the order of the ids; empty for regression; None: the checkpoint's own, or none."""

    def folder_of(self, label: str) -> Path:
        """Name the folder of a result."""

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its tokenizer."""

    def load_model(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        """Load the model; the head is that of the set, None for a language model."""

    def describe_weights(self) -> dict[str, Any]:
        """Say which weights they are."""

    def earlier_provenance(self) -> dict[str, Any] | None:
        """Give the provenance of scores that the run wrote itself."""


def open_run(
    name: str, words: Sequence[str], overrides: Sequence[str], output_dir: str | None, consent: Consent = NO_CONSENT
) -> TrainedRun:
    """Open a trained run for evaluation; nothing heavy is imported.

    Args:
        name: The run folder, its final_model/ or a checkpoint.
        words: What `--set` says; none: the run's own sets.
        overrides: `key=value` words.
        output_dir: Where results go; None: into the run's folder.
        consent: What of it may run, beside what the words allow.

    Raises:
        UserError: There is no such run, or the words do not fit it.
    """
    consent = consent.with_words(read_overrides(overrides))
    trained = read_run_folder(name, consent)
    checked = check_overrides(overrides, trained.config.task_type, of_run=True)
    require_local_rows(checked)
    config = load_run_config(trained.config.source, overrides, files=False)
    base = require_base(trained, config.model, "the command line").config.model
    update = {"name_or_path": base.name_or_path, "revision": base.revision}
    config = replace(config, model=consent.apply(config.model, name).model_copy(update=update))
    evaluation = config.find_section(EvaluationSection)
    known = evaluation.set_sections if evaluation is not None else None
    own = OwnSets(config.dataset.name, {each.shown_label: each for each in known or ()}, config.task_type)
    if not words and known is None and is_row_file(path := str(checked.get(("dataset", "path")) or "")):
        words = (path,)
    job = Job(config, read_requests(words, own) if words else None, checked.get(_LIMIT))
    return TrainedRun(name, replace(trained, config=config), job, output_dir)


def open_model(
    name: str, words: Sequence[str], overrides: Sequence[str], output_dir: str | None, consent: Consent = NO_CONSENT
) -> PlainModel:
    """Open a model without adapter for evaluation; nothing heavy is imported.

    Args:
        name: Hub name or folder.
        words: What `--set` says, at least one.
        overrides: `key=value` words.
        output_dir: Where results go; None: `outputs/eval_<name>`.
        consent: What of it may run, beside what the words allow.

    Raises:
        UserError: The folder holds a run or an adapter, or the words do not fit.
    """
    refuse_own_folder(name)
    sections = read_requests(words, None)
    task_type = find_task_type(name, sections, overrides)
    checked = check_overrides([*consent.words(), *overrides], task_type, of_run=False)
    if len(sections) > 1 and checked.get(("dataset", "path")):
        raise UserError("dataset.path is for one set; with several give each its own: --set '{name: ..., path: ...}'")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "model"
    root = Path(output_dir or f"outputs/eval_{stem}").expanduser()
    limit = checked.get(_LIMIT)
    jobs = tuple(Job(build_model_config(name, each, checked, task_type, root), (each,), limit) for each in sections)
    return PlainModel(name, jobs, root)


class TrainedRun:
    """See ModelRef.

    Args:
        name: As the user named it.
        trained: Its configuration with overrides.
        job: What it is asked.
        output_dir: Where results go; None: into its folder.
    """

    def __init__(self, name: str, trained: TrainedModel, job: Job, output_dir: str | None) -> None:
        self._name = name
        self._trained = trained
        self._commit: str | None = None
        assert trained.run is not None, "only runs are opened so"
        self._run = trained.run
        match = re.fullmatch(r"checkpoint-(\d+)", trained.weights.name)
        self._checkpoint = int(match[1]) if match else None
        self._is_elsewhere = output_dir is not None
        self.jobs: tuple[Job, ...] = (job,)
        self.root = Path(output_dir).expanduser() if output_dir else self._run
        if output_dir is None:
            require_no_links_out(self._run, "eval_*")
        self.record = read_record(self._run)

    @cached_property
    def trained_config(self) -> RunConfig:
        """Read the run's own configuration."""
        return load_run_config(self._trained.config.source, files=False)

    @property
    def title(self) -> str:
        """Name folder, weights and step."""
        step = self._step
        return f"{self._name} ({self._trained.weights.name}{'' if step is None else f', step {step}'})"

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Classes as they were trained."""
        return self._trained.label_names

    def folder_of(self, label: str) -> Path:
        """Name the folder that training would have used: eval_<label>, eval_step_N/<label> of a checkpoint."""
        if self._is_elsewhere:
            return self.root / label
        return self.root / (f"eval_{label}" if self._checkpoint is None else f"eval_step_{self._checkpoint}/{label}")

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer that was saved with the weights."""
        from utils.modeling.tokenizer import load_tokenizer

        return load_tokenizer(self._trained.config.model, str(self._trained.weights))

    def load_model(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        """Load base and adapter, once; the head is the trained one."""
        return self._model

    def describe_weights(self) -> dict[str, Any]:
        """Name the run, the weights in it, and their base."""
        facts = {
            "run": str(self._run),
            "weights": self._trained.weights.name,
            "step": self._step,
            "base": self._trained.config.model.name_or_path,
            "base_commit": self._commit,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def earlier_provenance(self) -> dict[str, Any] | None:
        """Give the training's provenance."""
        return read_json(self._run / PROVENANCE_FILE)

    @cached_property
    def _model(self) -> PreTrainedModel:
        from utils.modeling.source import resolved_commit

        model, _ = self._trained.load()
        self._commit = resolved_commit(model)
        return model

    @property
    def _step(self) -> int | None:
        if self._checkpoint is not None or self.record is None or self.record.best_metric is None:
            return self._checkpoint
        return self.record.best_metric.step


class PlainModel:
    """See ModelRef.

    Args:
        name: Hub name or folder.
        jobs: One for each set, whose dataset gives the prompt.
        root: Where results go.
    """

    label_names: tuple[str, ...] | None = None
    record: RunRecord | None = None
    trained_config: RunConfig | None = None

    def __init__(self, name: str, jobs: tuple[Job, ...], root: Path) -> None:
        self.title = name
        self.jobs = jobs
        self.root = root
        self._section = jobs[0].config.model
        self._loaded: tuple[HeadSpec | None, PreTrainedModel] | None = None
        self._commit: str | None = None

    def folder_of(self, label: str) -> Path:
        """Name the folder of a result."""
        return self.root / label

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the model's own tokenizer."""
        from utils.modeling.tokenizer import load_tokenizer

        return load_tokenizer(self._section)

    def load_model(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        """Load the model, again only for another head.

        Raises:
            ModelError: It has no trained head for the set's labels.
        """
        if self._loaded is None or self._loaded[0] != head:
            self._loaded = head, self._load(tokenizer, head)
        return self._loaded[1]

    def describe_weights(self) -> dict[str, Any]:
        """Name the model and its commit."""
        return {"model": self.title} | ({"commit": self._commit} if self._commit else {})

    def earlier_provenance(self) -> None:
        """Say that nothing else writes its scores."""

    def _load(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        from utils.modeling.base_model import load_base_model
        from utils.modeling.new_weights import list_new_modules
        from utils.modeling.source import resolved_commit

        model = load_base_model(self._section, tokenizer, head)
        if new := list_new_modules(model):
            num_labels = head.num_labels if head else 0
            raise ModelError(
                f"--model {self.title}: its checkpoint has no trained head for {num_labels} labels ({', '.join(new)} "
                "would be random, and so its score); name a classifier fine-tuned for this set, or a run by --run"
            )
        if head is not None and getattr(model, "is_quantized", False):  # the Trainer refuses it as untrainable
            raise ModelError(
                f"--model {self.title}: a quantized classifier without adapter cannot be scored; take "
                "model.quantization out, or name an unquantized checkpoint"
            )
        self._commit = resolved_commit(model)
        return model
