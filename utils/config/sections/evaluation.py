"""The `evaluation:` section: when, and on which sets, a model's generated answers are scored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator

from utils.config.error_messages import suggest
from utils.config.section import Section
from utils.config.sections.model import is_local
from utils.core import registry
from utils.core.texts import FILE_KINDS, require_columns

EVALUATE_PREFIX = "evaluate:"
"""Prefix of the name of a metric of the evaluate library."""


class SetSection(Section):
    """One evaluation set."""

    name: str = Field(min_length=1)
    """A dataset of `utils/datasets`, or a hub id, folder or file."""
    path: str | None = None
    """Folder, file or hub id to read the rows from; null: the dataset's own, or the run's if it is the same dataset."""
    subset: str | None = None
    """Configuration of the dataset."""
    subsets: str | list[str] | None = None
    """Several configurations, each scored separately: a list, or `all`; for datasets that have them (longbench)."""
    split: str | None = None
    """Split whose prompts are answered, or part of one: `test[:100]`; null: the dataset's own."""
    label: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the result and its folder; null: derived from the name."""
    metrics: list[str] | None = Field(None, min_length=1)
    """Metrics of the set, including those of the evaluate library, whose scripts run as code: `evaluate:sacrebleu`,
    `evaluate:rouge:rougeL`, `evaluate:./my_metric` (docs/metrics.md); null: the dataset's own."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Maximum number of tokens in an answer; null: the set's own protocol, else `generation.max_new_tokens`."""
    max_samples: int | None = Field(None, ge=1)
    """Answer the first this many prompts of this set; null: `evaluation.max_samples`."""
    protocol: str | None = None
    """The public evaluation whose prompt and rules are used, if the dataset supports several: one of math, metamath or
    minerva_math; null: the dataset's own."""
    prompts_file: str | None = None
    """A file of prompts by subset, such as LongBench's official dataset2prompt.json; null: the dataset's own."""

    dataset: dict[str, Any] = {}
    """Keys of the dataset's section that determine how its rows are read: {prompt_template: ..., answer_column:
    ...}."""

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, value: list[str] | None) -> list[str] | None:
        if wrong := explain_metrics(value or ()):
            raise ValueError(wrong)
        return value

    @property
    def text_file(self) -> str | None:
        """Path of the plain-text file whose perplexity is measured; None if this is a set of prompts."""
        file = self.path or self.name
        return file if Path(file).suffix.lower() == ".txt" else None

    @property
    def resolved_label(self) -> str:
        """The label, or one derived from the name: `openai/gsm8k` gives `gsm8k`, `data/test.jsonl` gives `test`."""
        return self.label or label_of(self.name)


class TruthfulQASection(Section):
    """How answers to TruthfulQA are scored."""

    scorer: Literal["rougeL", "bleurt"] = "rougeL"
    """Similarity of an answer to a reference. rougeL: ROUGE-L F1, 0 to 1, needs no download. bleurt: BLEURT-large-128,
    whose package and checkpoint must be installed. Scores by different scorers are never compared."""


class LongBenchSection(Section):
    """How answers to LongBench are scored."""

    code_similarity: Literal["difflib", "levenshtein"] = "difflib"
    """Similarity for lcc and repobench-p: the official scorer uses difflib, or levenshtein if python-Levenshtein
    happens to be installed; they differ by up to 5 points. Scores by different ones are never compared."""


class EvaluationSection(Section):
    """Evaluation of generated answers; the loss is evaluated every `training.eval_steps` steps.

    With the keys of `training:`, its scores can choose the best checkpoint and stop training early, as the loss can.
    """

    ALIASES: ClassVar[dict[str, str]] = {"datasets": "sets", "max_eval_samples": "max_samples"}

    steps: int | None = Field(None, ge=1)
    """Evaluate every this many training steps; null: not during training. A checkpoint is saved first, so that
    `--resume` continues in the middle of the evaluation; it is deleted once a newer one exists, unless it is the best
    or due by training.save_steps."""
    at_start: bool = False
    """Evaluate before the first training step."""
    at_end: bool = True
    """Evaluate after training."""
    sets: list[str | SetSection] | None = Field(None, min_length=1)
    """Evaluation sets, by name or as {name, path, subset, split, label, metrics ...}; null: the run's own dataset."""
    prompt_template: str | None = None
    """Prompt to ask with instead of the one used in training, written like dataset.prompt_template; sets with a prompt
    of their own keep it. Scores with different prompts are never compared. null: the prompt of training."""
    max_samples: int | None = Field(None, ge=1)
    """Answer the first this many prompts of each set and mark the results as partial; null: all."""
    max_prompt_length: int | None = Field(None, ge=1)
    """Maximum number of tokens in a prompt; longer ones lose their middle, which is counted and reported. null: as many
    as the model's positions allow (official protocols, such as LongBench's: as the protocol has it)."""
    retention: list[str | SetSection] | None = Field(None, min_length=1)
    """Sets and `.txt` files to measure forgetting on: each set is asked with its own prompt, and a file's perplexity is
    measured. The base is scored before training and the tuned model at the end; the difference is reported with its
    interval over pairs of rows. null: none."""
    server: str | None = None
    """URL of a vLLM server of the run's base, such as `http://127.0.0.1:8000/v1`, to generate the answers: it is sent
    the current adapter at each evaluation (docs/serving.md). null: generate in this process."""
    num_return_sequences: int = Field(1, ge=1)
    """Number of answers to each prompt, sampled with generation.temperature: pass_at_10 needs at least 10; other
    metrics are averaged over them. Protocols that decode greedily for one answer sample for several."""
    allow_code_execution: bool = False
    """Run the programs that a model writes, for pass_at_1, pass_at_10 and pass_at_100, each in its own process with
    limits; docs/security.md says what they can still do. evaluate_model.py ignores this key in a folder's own run.yaml:
    only its flag --allow_code_execution counts."""
    truthfulqa: TruthfulQASection = TruthfulQASection()
    """How TruthfulQA's answers are scored."""
    longbench: LongBenchSection = LongBenchSection()
    """How LongBench's answers are scored."""

    @field_validator("prompt_template")
    @classmethod
    def _check_template(cls, value: str | None) -> str | None:
        return value if value is None else require_columns(value)

    @field_validator("sets", "retention", mode="before")
    @classmethod
    def _explain_entries(cls, value: Any) -> Any:
        """Parse mappings here, so that a mistake in one is reported under its own key and not as the list's."""
        if isinstance(value, str | Mapping):
            value = [value]
        if not isinstance(value, list):
            return value
        return [entry if isinstance(entry, str) else as_section(entry) for entry in value]

    @field_validator("sets", "retention")
    @classmethod
    def _check_labels(cls, value: list[str | SetSection] | None) -> list[str | SetSection] | None:
        labels = [each.resolved_label for each in map(as_section, value or ())]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two sets are called {twice[0]}; give one of them another label")
        return value

    @property
    def is_periodic(self) -> bool:
        """Whether the model is evaluated before or during training."""
        return self.steps is not None or self.at_start

    @property
    def is_used(self) -> bool:
        """Whether prompts are answered at all, during or after training."""
        return self.at_end or self.is_periodic

    @property
    def set_sections(self) -> tuple[SetSection, ...] | None:
        """The sets as sections, or None for the run's own dataset."""
        return None if self.sets is None else tuple(map(as_section, self.sets))

    @property
    def retention_sections(self) -> tuple[SetSection, ...]:
        """The sets and files to measure forgetting on, as sections."""
        return tuple(map(as_section, self.retention or ()))


def as_section(entry: Any) -> SetSection:
    """Parse one entry of `sets`, a name or a mapping.

    Raises:
        ValueError: The entry is invalid; the message explains it in one sentence.
    """
    if isinstance(entry, SetSection):
        return entry
    if not isinstance(entry, str | Mapping):
        raise ValueError(f"{entry!r} is neither the name of a set nor a mapping that has one")
    try:
        return SetSection.model_validate({"name": entry} if isinstance(entry, str) else entry)
    except ValidationError as error:
        raise ValueError(_explain(error)) from error


def explain_metrics(names: Iterable[str]) -> str | None:
    """Explain the first name that is neither a metric of generated texts nor of the evaluate library, if any."""
    kinds = {name: registry.load("metrics", name).METRIC.kind for name in registry.names("metrics")}
    known = [name for name, kind in kinds.items() if kind == "generation"]
    for name in names:
        if name.startswith(EVALUATE_PREFIX):
            if wrong := explain_script(name):
                return wrong
        elif registry.normalize(name) not in known:
            return f"no metric of generated texts called {name}{suggest(name, known)}"
    return None


def explain_script(name: str) -> str | None:
    """Explain what is wrong with the name of an evaluate metric, as far as is known before loading it, or None."""
    path = name.removeprefix(EVALUATE_PREFIX).partition(":")[0]
    folder = Path(path).expanduser()
    script = folder if folder.suffix == ".py" else folder / f"{folder.name}.py"
    if not path:
        return f"{name}: name the metric, evaluate:sacrebleu, or a folder that holds its script, evaluate:./my_metric"
    if is_local(path) and not script.is_file():
        return f"{name}: there is no script {script}; a metric's script has the name of its folder"
    return None


def label_of(name: str) -> str:
    """Derive a label that is safe as a file name from a dataset name, hub id or path."""
    path = Path(name)
    last = path.stem if path.suffix.lower() in FILE_KINDS else path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-") or "set"


def _explain(error: ValidationError) -> str:
    details = error.errors()[0]
    key, kind = ".".join(str(part) for part in details["loc"][:1]), details["type"]
    if kind == "extra_forbidden":
        return f"unknown key {key}{suggest(key, tuple(SetSection.model_fields))}"
    if kind == "missing":
        return f"each set needs a {key}"
    if kind == "string_pattern_mismatch":
        return f"{key}: {details['input']!r} is not fit for a folder's name; use letters, digits, '.', '_' and '-'"
    return f"{key}: {details['ctx']['error'] if kind == 'value_error' else details['msg']}"
