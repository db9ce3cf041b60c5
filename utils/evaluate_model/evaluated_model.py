"""The model to evaluate, its sets, and where its results go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.run_config import RunConfig
from utils.config.sections.evaluation import EVALUATE_PREFIX, EvaluationSection, SetSection
from utils.config.sections.model import ModelSection
from utils.config.yaml_text import read_overrides
from utils.core.errors import ModelError, UserError
from utils.data.row_files import is_row_file
from utils.evaluate_model.overrides import build_model_config, check_overrides, find_task_type, require_local_rows
from utils.evaluate_model.requests import OwnSets, read_requests
from utils.generation.server import ServedModel
from utils.modeling.consent import NO_CONSENT, Consent
from utils.results.json_file import read_json
from utils.results.provenance import PROVENANCE_FILE
from utils.results.record import RunRecord, read_record
from utils.run_config import load_run_config
from utils.runs import open_model as runs
from utils.runs.hub import is_on_hub
from utils.runs.model_ref import ModelRef, PublishedModel
from utils.runs.own_folder import require_no_links_out
from utils.tasks.task import default_task, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.modeling.head import HeadSpec

_LIMIT = ("dataset", "max_eval_samples")
_RUN_CODE = ("evaluation", "allow_code_execution")


@dataclass(frozen=True)
class Job:
    """Sets with one configuration."""

    config: RunConfig
    sections: tuple[SetSection, ...] | None
    """None: the configuration's own sets."""
    max_eval_samples: int | None = None
    """Maximum rows of each set from the command line; a named file is otherwise scored whole."""
    may_run_code: bool = False
    """Whether the command line allows what evaluation.allow_code_execution does; a run's own file cannot."""


@dataclass
class EvaluatedModel:
    """A trained run with its overrides, one of its checkpoints, or a published model."""

    model: ModelRef
    jobs: tuple[Job, ...]
    root: Path
    """Parent folder of the results' folders."""
    is_elsewhere: bool = True
    """Whether results are written outside the run's folder."""
    record: RunRecord | None = None
    """The run's own record."""
    served: ServedModel | None = None
    """The server's model that generates in its place; None: it is loaded here."""
    _loaded: tuple[HeadSpec | None, PreTrainedModel] | None = field(default=None, init=False, repr=False)

    @property
    def trained_config(self) -> RunConfig | None:
        """The configuration of the training, without current overrides; None for a plain model."""
        return load_run_config(self.model.config.source, files=False) if self.model.config is not None else None

    @property
    def title(self) -> str:
        """Name of the model for messages: a run with its weights and their step."""
        return self.model.title if self._step is None else f"{self.model.title[:-1]}, step {self._step})"

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Classes in the order of the ids; empty for regression; None: the checkpoint's own, or none."""
        return None if isinstance(self.model, PublishedModel) else self.model.label_names

    @property
    def _checkpoint(self) -> int | None:
        weights = None if isinstance(self.model, PublishedModel) else self.model.weights
        match = re.fullmatch(r"checkpoint-(\d+)", weights.name) if weights is not None else None
        return int(match[1]) if match else None

    @property
    def _step(self) -> int | None:
        if self._checkpoint is not None or self.record is None or self.record.best_metric is None:
            return self._checkpoint
        return self.record.best_metric.step

    def folder_of(self, label: str) -> Path:
        """Return a result's folder; in a run as in training: eval_<label>, or eval_step_N/<label> for a checkpoint."""
        if self.is_elsewhere:
            return self.root / label
        return self.root / (f"eval_{label}" if self._checkpoint is None else f"eval_step_{self._checkpoint}/{label}")

    def load_model(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        """Load the model once; a published one again for another head, which is that of the set.

        Raises:
            ModelError: It has no trained head for the set's labels, or cannot be scored.
        """
        if not isinstance(self.model, PublishedModel):
            head = self.model.head
        if self._loaded is None or self._loaded[0] != head:
            self._loaded = head, self._load(tokenizer, head)
        return self._loaded[1]

    def _load(self, tokenizer: PreTrainedTokenizerBase, head: HeadSpec | None) -> PreTrainedModel:
        if not isinstance(self.model, PublishedModel):
            return self.model.load_model(tokenizer)
        model, new = self.model.load_with_head(tokenizer, head)
        if new:
            num_labels = head.num_labels if head else 0
            raise ModelError(
                f"--model {self.title}: its checkpoint has no trained head for {num_labels} labels ({', '.join(new)} "
                "would be random, and so its score); name a classifier fine-tuned for this set, or a run by --run"
            )
        if head is not None and getattr(model, "is_quantized", False):  # the Trainer rejects it as untrainable
            raise ModelError(
                f"--model {self.title}: a quantized classifier without adapter cannot be scored; remove "
                "model.quantization, or name an unquantized checkpoint"
            )
        return model

    def describe_weights(self) -> dict[str, Any]:
        """Describe the weights: a run's and their base, or a model, with its commit once it is loaded."""
        from utils.modeling.source import resolved_commit

        commit = resolved_commit(self._loaded[1]) if self._loaded is not None else None
        served = self.served.describe() if self.served is not None else {}
        if isinstance(self.model, PublishedModel):
            base = self.model.section.name_or_path
            named = {"model": base} if self.model.adapter is None else {"adapter": self.title, "base": base}
            return named | ({"commit": commit} if commit else {}) | served
        facts = {
            "run": self.model.name if is_on_hub(self.model.name) else str(self.model.run or self.model.weights),
            "weights": self.model.weights.name,
            "step": self._step,
            "base": self.model.config.model.name_or_path,
            "base_commit": commit,
            **served,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def earlier_provenance(self) -> dict[str, Any] | None:
        """Return the provenance of scores that the run wrote itself."""
        return read_json(self.model.run / PROVENANCE_FILE) if self.model.run is not None else None


def open_run(
    name: str, words: Sequence[str], overrides: Sequence[str], output_dir: str | None, consent: Consent = NO_CONSENT
) -> EvaluatedModel:
    """Open a trained run, or a merged model, for evaluation, without heavy imports.

    `name` is a run folder, its final_model/ or a checkpoint, or a merged model's folder; `words` are values of `--set`,
    empty for the run's own sets. Results are written to `output_dir`; None: to the run's folder, or
    `outputs/eval_<name>` for a merged model.
    """
    consent = consent.with_overrides(read_overrides(overrides))
    trained = runs.open_trained(name, consent)
    checked = check_overrides(overrides, trained.config.task_type, of_run=True)
    require_local_rows(checked)
    # Read again with the overrides on top of the run's file; the base stays the one found and checked.
    config = load_run_config(trained.config.source, overrides, files=False)
    base = runs.require_base(trained, config.model, "the command line").config.model
    update: dict[str, Any] = {"name_or_path": base.name_or_path, "revision": base.revision}
    if trained.run is None:  # merged: stored in the dtype in which it is used
        update |= {"quantization": None, "dtype": checked.get(("model", "dtype")) or "auto"}
    section = consent.apply(config.model, name).model_copy(update=update)
    trained = runs.as_whole_model(replace(trained, config=config).with_section(section))
    evaluation = config.find_section(EvaluationSection)
    known = evaluation.set_sections if evaluation is not None else None
    _refuse_scripts(trained.config, known or (), consent)
    labelled = {each.resolved_label: each for each in known or ()}
    own = OwnSets(config.dataset.name, labelled, load_task(config.task).row_type())
    if not words and known is None and is_row_file(path := str(checked.get(("dataset", "path")) or "")):
        words = (path,)
    job = Job(trained.config, read_requests(words, own) if words else None, checked.get(_LIMIT),
              checked.get(_RUN_CODE) is True)  # fmt: skip
    if trained.run is None:
        return EvaluatedModel(trained, (job,), Path(output_dir or f"outputs/eval_{stem_of(name)}").expanduser())
    if output_dir is None and is_on_hub(name):
        output_dir = f"outputs/eval_{stem_of(name)}"
    if output_dir is None:
        require_no_links_out(trained.run, "eval_*")
    root = Path(output_dir).expanduser() if output_dir else trained.run
    return EvaluatedModel(trained, (job,), root, output_dir is not None, read_record(trained.run))


def _refuse_scripts(config: RunConfig, known: Sequence[SetSection], consent: Consent) -> None:
    """Reject metric scripts that only the run's own file names, without the user's consent."""
    named = [*(getattr(config.dataset, "metrics", None) or ())]
    named += [name for each in known for name in each.metrics or ()]
    scripts = [name for name in named if name.startswith(EVALUATE_PREFIX)]
    if scripts and not consent.allow_extensions:
        raise UserError(
            f"its own run.yaml scores by {scripts[0]}, a script with code to run; a folder cannot allow that itself: "
            "if you trust who made it, add --allow_extensions"
        )


def open_model(
    name: str | None,
    words: Sequence[str],
    overrides: Sequence[str],
    output_dir: str | None,
    consent: Consent = NO_CONSENT,
    adapter: str | None = None,
) -> EvaluatedModel:
    """Open a model without a run for evaluation, as `open_run` does a run; it needs a `--set`.

    For an `adapter` in peft's layout, `name` is the base; None: the one that the adapter names. Results are written to
    `outputs/eval_<name>` by default.
    """
    if adapter is not None:
        model = runs.open_adapter(adapter, name, consent)
    else:
        assert name is not None, "the command line has one of both"
        runs.refuse_own_folder(name)
        model = PublishedModel(name, ModelSection(name_or_path=name), generates=True)
    if not words:
        raise UserError(f"{model.name}: needs a --set to be scored on, such as --set gsm8k or --set glue:mrpc")
    base, sections = model.section.name_or_path, read_requests(words, None)
    task_type = find_task_type(base, sections, overrides)
    if adapter is not None and model.generates != default_task(task_type).GENERATES:
        raise UserError(f"--adapter {adapter}: is for another task than the rows of {words[0]}, which need {task_type}")
    checked = check_overrides([*consent.as_overrides(), *overrides], task_type, of_run=False)
    if len(sections) > 1 and checked.get(("dataset", "path")):
        raise UserError("dataset.path is for one set; with several give each its own: --set '{name: ..., path: ...}'")
    root = Path(output_dir or f"outputs/eval_{stem_of(model.name)}").expanduser()
    limit = checked.get(_LIMIT)
    jobs = tuple(
        Job(build_model_config(base, each, checked, task_type, root), (each,), limit, checked.get(_RUN_CODE) is True)
        for each in sections
    )
    config = jobs[0].config
    revision = config.model.revision or model.section.revision
    section = config.model.model_copy(update={"revision": revision})
    return EvaluatedModel(replace(model, section=section, generates=load_task(config.task).GENERATES), jobs, root)


def stem_of(name: str) -> str:
    """Return a folder name for a model."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "model"
