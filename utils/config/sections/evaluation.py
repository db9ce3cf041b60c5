"""The `evaluation:` section: on which sets and when a model is scored by what it writes."""

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
"""Begins the name of a metric of the library evaluate."""


class SetSection(Section):
    """One set to evaluate on."""

    name: str = Field(min_length=1)
    """A dataset of `utils/datasets`, or a hub id, folder or file."""
    path: str | None = None
    """Folder, file or hub id to take the rows from; null: the dataset's own, or the run's if it is the same."""
    subset: str | None = None
    """Configuration of the set."""
    subsets: str | list[str] | None = None
    """Several configurations, each a result of its own: a list, or `all`; for sets that have them (longbench)."""
    split: str | None = None
    """Split whose prompts are answered; a part may be cut out: `test[:100]`. null: the dataset's own."""
    label: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the result and its folder; null: made of the name."""
    metrics: list[str] | None = Field(None, min_length=1)
    """Metrics of the set, also of the library evaluate, whose scripts run as code: `evaluate:sacrebleu`,
    `evaluate:rouge:rougeL`, `evaluate:./my_metric` (docs/metrics.md); null: the dataset's own."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Tokens an answer may have; null: the set's own protocol, else `generation.max_new_tokens`."""
    max_samples: int | None = Field(None, ge=1)
    """Answer the first so many prompts of this set; null: `evaluation.max_samples`."""
    protocol: str | None = None
    """The public evaluation by whose prompt and rules the set is asked and judged, where its dataset offers some: of
    math, metamath or minerva_math; null: the dataset's own."""
    prompts_file: str | None = None
    """A file of prompts by subset, such as LongBench's official dataset2prompt.json; null: the dataset's own."""

    dataset: dict[str, Any] = {}
    """Keys of its dataset's section that say how these rows are read: {prompt_template: ..., answer_column: ...}."""

    @field_validator("metrics")
    @classmethod
    def _of_texts(cls, value: list[str] | None) -> list[str] | None:
        if wrong := explain_metrics(value or ()):
            raise ValueError(wrong)
        return value

    @property
    def held_text(self) -> str | None:
        """The file of plain text that it is, whose perplexity is asked for; None: it is a set of prompts."""
        file = self.path or self.name
        return file if Path(file).suffix.lower() == ".txt" else None

    @property
    def shown_label(self) -> str:
        """The label, or one made of the name: `openai/gsm8k` is `gsm8k`, `data/test.jsonl` is `test`."""
        return self.label or label_of(self.name)


class TruthfulQASection(Section):
    """How answers to TruthfulQA are judged."""

    scorer: Literal["rougeL", "bleurt"] = "rougeL"
    """What tells how near an answer is to a reference. rougeL: ROUGE-L F1, 0 to 1, needs no download. bleurt:
    BLEURT-large-128, whose package and checkpoint must be there. Scores of different scorers are never compared."""


class LongBenchSection(Section):
    """How answers to LongBench are judged."""

    code_similarity: Literal["difflib", "levenshtein"] = "difflib"
    """What lcc and repobench-p are scored by: the official scorer takes difflib, or the other where python-Levenshtein
    happens to be installed; they differ by up to 5 points. Scores of different ones are never compared."""


class EvaluationSection(Section):
    """Evaluation by generating; the loss is evaluated by `training.eval_steps`.

    Its scores choose the best checkpoint and end training early by the keys of `training:`, as the loss does.
    """

    ALIASES: ClassVar[dict[str, str]] = {"datasets": "sets", "max_eval_samples": "max_samples"}

    steps: int | None = Field(None, ge=1)
    """Evaluate every so many training steps; null: not during training. Such a step is saved first, so that `--resume`
    continues in the middle of its evaluation; unless it is the best, or due by training.save_steps, its checkpoint goes
    when a newer one is there."""
    at_start: bool = False
    """Evaluate before the first training step."""
    at_end: bool = True
    """Evaluate after training."""
    sets: list[str | SetSection] | None = Field(None, min_length=1)
    """Sets by name, or as {name, path, subset, split, label, metrics ...}; null: the run's own set."""
    prompt_template: str | None = None
    """Ask by this prompt, written as dataset.prompt_template is, instead of the one that is trained on; sets with a
    prompt of their own keep it. Scores by different prompts are never compared. null: the prompt of training."""
    max_samples: int | None = Field(None, ge=1)
    """Answer the first so many prompts of each set; such results are marked partial. null: all."""
    max_prompt_length: int | None = Field(None, ge=1)
    """Tokens a prompt may have; longer ones lose their middle, which is counted and reported. null: what the model's
    positions leave (sets of an official protocol, such as LongBench's: as that protocol has it)."""
    retention: list[str | SetSection] | None = Field(None, min_length=1)
    """What the model should not forget: sets, each asked by its own prompt, and `.txt` files, whose perplexity is
    measured. The base is scored on them before training and the tuned model at its end, with the difference and its
    interval over pairs of rows. null: nothing."""
    server: str | None = None
    """A vLLM server of the run's base, such as `http://127.0.0.1:8000/v1`, that writes the answers: it is handed the
    adapter as it is at each evaluation (docs/serving.md). null: the model writes itself."""
    num_return_sequences: int = Field(1, ge=1)
    """Answers to each prompt, drawn by generation.temperature: pass_at_10 takes 10 at least; other metrics are the mean
    over them. A protocol that is greedy for one answer is not for several."""
    allow_code_execution: bool = False
    """Run the programs that a model writes, for pass_at_1, pass_at_10 and pass_at_100, each in a process of its own
    with limits; docs/security.md says what they can still do. What a folder's own run.yaml says does not count for
    evaluate_model.py: its flag --allow_code_execution does."""
    truthfulqa: TruthfulQASection = TruthfulQASection()
    """The judge of TruthfulQA's answers."""
    longbench: LongBenchSection = LongBenchSection()
    """The judge of LongBench's answers."""

    @field_validator("prompt_template")
    @classmethod
    def _readable_template(cls, value: str | None) -> str | None:
        return value if value is None else require_columns(value)

    @field_validator("sets", "retention", mode="before")
    @classmethod
    def _explain_entries(cls, value: Any) -> Any:
        """Read mappings here, so that a mistake in one is reported with its own key and not as a list's."""
        if isinstance(value, str | Mapping):
            value = [value]
        if not isinstance(value, list):
            return value
        return [entry if isinstance(entry, str) else as_section(entry) for entry in value]

    @field_validator("sets", "retention")
    @classmethod
    def _labels_differ(cls, value: list[str | SetSection] | None) -> list[str | SetSection] | None:
        labels = [each.shown_label for each in map(as_section, value or ())]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two sets are called {twice[0]}; give one of them another label")
        return value

    @property
    def is_periodic(self) -> bool:
        """Whether it evaluates during training."""
        return self.steps is not None or self.at_start

    @property
    def is_used(self) -> bool:
        """Whether prompts are answered at all, at the end or during training."""
        return self.at_end or self.is_periodic

    @property
    def set_sections(self) -> tuple[SetSection, ...] | None:
        """The sets, each as a section; None: the run's own set."""
        return None if self.sets is None else tuple(map(as_section, self.sets))

    @property
    def retention_sections(self) -> tuple[SetSection, ...]:
        """What should not be forgotten, each as a section."""
        return tuple(map(as_section, self.retention or ()))


def as_section(entry: Any) -> SetSection:
    """Read one entry of `sets`: a name, or a mapping.

    Raises:
        ValueError: What is wrong with it, in one sentence.
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
    """Say which of some names is no metric of generated texts, nor one of the library evaluate; None: all are."""
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
    """Say what is wrong with the name of a metric of the library evaluate; None: nothing that is known before."""
    path = name.removeprefix(EVALUATE_PREFIX).partition(":")[0]
    folder = Path(path).expanduser()
    script = folder if folder.suffix == ".py" else folder / f"{folder.name}.py"
    if not path:
        return f"{name}: name the metric, evaluate:sacrebleu, or a folder that holds its script, evaluate:./my_metric"
    if is_local(path) and not script.is_file():
        return f"{name}: there is no script {script}; a metric's script is called as its folder"
    return None


def label_of(name: str) -> str:
    """Make a label, fit for a file name, of a dataset's name, a hub id or a path."""
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
