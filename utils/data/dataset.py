"""The interface of dataset plug-ins: the description of a dataset for each task type."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from utils.config.sections.dataset import DatasetSection
from utils.core import registry
from utils.core.errors import ConfigError, Problem
from utils.core.texts import list_texts
from utils.data.row_files import AS_NAMED, FileFormat
from utils.data.row_files import Row as Row

if TYPE_CHECKING:
    from utils.data.rows import Rows
    from utils.data.sources import Source

_S = TypeVar("_S", bound="SourceSet")

Turn = dict[str, Any]
"""One turn of a conversation: role (system, user, assistant, tool) and content, a string; optionally reasoning_content,
tool_calls, name and tool_call_id; `train: False` on an answer that its row excludes from training, and `context: True`
on one that is part of the prompt."""
Reference = str | dict[str, Any]
"""What a generated answer is scored against: a text, or a JSON object with what a metric needs."""


FREE_METRICS = ("exact_match", "token_f1", "rouge_l")
"""Default metrics of a dataset without a protocol; the length of its answers chooses the headline metric."""
_SHORT, _SENTENCE = 3, 40


def order_metrics(metrics: tuple[str, ...], references: Sequence[Reference]) -> tuple[str, ...]:
    """Put the metric first that suits the answers' length, if the metrics are the default ones.

    Exact match for up to 3 words, such as classes and numbers; token F1 for a sentence or two; else ROUGE-L.
    """
    if metrics is not FREE_METRICS:
        return metrics
    lengths = sorted(len(each.split()) for each in references if isinstance(each, str))
    middle = lengths[len(lengths) // 2] if lengths else 0
    first = metrics[0 if middle <= _SHORT else 1 if middle <= _SENTENCE else 2]
    return (first, *(each for each in metrics if each != first))


@dataclass(frozen=True)
class Example:
    """One row as text: a prompt with its answer, or a conversation."""

    prompt: str = ""
    """Prompt, not trained on unless sft.completion_only_loss is false; empty for plain text."""
    answer: str = ""
    """Answer to train on; empty if the row has none."""
    question: str = ""
    """The bare request without a template, for building another dataset's prompt; empty if there is none, as for a
    conversation of several exchanges."""
    user_turn: str = ""
    """User turn when dataset.as_chat makes the row a chat; empty: the prompt."""
    messages: tuple[Turn, ...] = ()
    """A conversation, instead of prompt and answer; its assistant turns are trained on."""
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas of the tools that the assistant may call."""
    num_cut_turns: int = 0
    """Number of turns after the last answer, which were dropped."""
    judged_by: Reference = ""
    """What a generated answer is scored against; empty: the answer."""
    plain: bool = False
    """A text to be continued, which is never made a chat."""
    context: str = ""
    """The part of the prompt, and of the user turn, to cut if the row is too long; empty: the whole prompt."""
    unread: tuple[str, ...] = ()
    """Keys of turns that are not read."""
    groups: tuple[tuple[str, str], ...] = ()
    """Groups of rows, to which it belongs, that are also scored separately, such as ("level", "Level 3")."""
    rejected: Example | None = None
    """The same prompt with the rejected answer; None: the row is not a pair."""
    margin: float | None = None
    """How much better the chosen answer is than the rejected one; None: not read."""
    is_good: bool | None = None
    """Whether the answer is a good one; None: unlabelled."""

    @property
    def whole_text(self) -> str:
        """All text of the row."""
        other = self.rejected.whole_text if self.rejected is not None else ""
        return self.prompt + self.answer + "".join(list_texts([self.messages, self.tools])) + other

    @property
    def reference(self) -> Reference:
        """What a generated answer is scored against: `judged_by`, the answer or the last turn (a call as JSON)."""
        if self.judged_by or not self.messages:
            return self.judged_by or self.answer.strip()
        last = self.messages[-1]
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in last.get("tool_calls", ())]
        return "\n".join([last["content"].strip(), *calls]).strip()


@dataclass(frozen=True)
class Submission:
    """How predictions for one test split are written for the benchmark's server."""

    split: str
    subset: str
    file: str
    """Name of the file, without `.tsv`."""
    kind: Literal["index", "name", "score"]
    """Values are label numbers, label names, or scores clipped to 0-5."""


@dataclass(frozen=True, kw_only=True)
class SourceSet:
    """Where the rows of a dataset are, and which of them train and validate."""

    path: str
    """Folder, file or hub id of the rows."""
    subset: str | None = None
    """Configuration within the path."""
    revision: str | None = None
    form: FileFormat = AS_NAMED
    train_split: str | None = "train"
    """Training split, optionally a slice: `train[:5000]`. None: the dataset is for evaluation only."""
    validation_path: str | None = None
    """A file of validation rows, if separate from the training rows."""
    validation_size: float | None = None
    """Number of rows, or below 1 share of the rows, to hold out if there is no validation split; None or 0: none."""
    open_split: Callable[[Source, str], Rows | None] | None = None
    """Opens a split of rows that are not stored as files of rows; returns None if there is no such split."""


@dataclass(frozen=True, kw_only=True)
class ClassificationSet(SourceSet):
    """A dataset's description for SEQ_CLS: classification and regression."""

    text_columns: tuple[str, ...]
    """One or two columns."""
    label_column: str
    num_labels: int | None
    """Number of classes; 1 for regression; None: read from the data."""
    label_names: tuple[str, ...] | None
    """Names in index order; None: read from the data."""
    metrics: tuple[str, ...]
    """The dataset's own metrics; the first is the headline metric."""
    eval_splits: dict[str, str] = field(default_factory=lambda: {"": "validation"})
    """Evaluation splits by suffix of the metrics' names."""
    submissions: tuple[Submission, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InstructionSet(SourceSet):
    """A dataset's description for CAUSAL_LM."""

    read_row: Callable[[Row], Example]
    """Builds an example from a row; raises a RowError (utils/core/texts.py) if the row is unusable."""
    metrics: tuple[str, ...]
    """Metrics of generated answers, the headline metric first."""
    ask: Callable[[str], Example] | None
    """Builds this dataset's prompt (an example without answer) from a bare request, so that a model trained on it can
    be evaluated on another dataset; None: the prompt needs more than one text."""
    protocol: str
    """Name of the way of prompting and scoring, stored with every score."""
    columns: tuple[str, ...] = ()
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, values that the section has settings for; values that no training row has are warned of."""
    read_prompt: Callable[[Row], Example] | None = None
    """Builds the prompt (an example without answer) from a row that needs no answer; None: not resolved yet."""
    prompt_columns: tuple[str, ...] = ()
    train_split: str = "train"
    validation_split: str | None = None
    """Split for the evaluation loss; None: none, or rows held out by validation_size."""
    generation_split: str | None = None
    """Split whose prompts are answered in evaluation; None: the validation rows."""
    group: Callable[[Row], str] | None = None
    """Returns a row's group; a hold-out never splits a group. None: rows with the same prompt are a group."""
    stop: tuple[str, ...] = ()
    """Strings that end a generated answer, in addition to the end-of-text token."""
    shots: int = 0
    """Number of worked examples in the prompt."""
    own_prompt: bool = False
    """Whether it is always asked with its own prompt and protocol, never with the run's prompt."""
    max_new_tokens: int | None = None
    """Maximum number of tokens in an answer under the protocol; None: the run's."""
    min_new_tokens: int = 0
    """Minimum number of tokens in an answer."""
    greedy: bool = False
    """Whether the protocol decodes greedily, regardless of the run's temperature."""
    chat_exempt: bool = False
    """Whether evaluation never uses the chat template, since the prompt is a text to be continued."""
    official_truncation: bool = False
    """Whether the middle of the whole prompt is cut before it becomes a chat, as in LongBench."""
    combined_metrics: tuple[str, ...] = ()
    """Metrics that count toward the combined score of several sets; (): the headline metric."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Other properties of the set that affect a score; stored with every result."""
    describe_count: Callable[[int], dict[str, Any]] | None = None
    """Returns more facts, given the number of rows to answer; added by `load_generation_rows`."""
    identify: Callable[[Row], str] | None = None
    """Returns a row's own name, recorded for held-out rows. None: rows have no names."""
    resolve: Callable[[InstructionSet, Sequence[str]], InstructionSet] | None = None
    """Completes the set once the rows' columns are known (custom rows of no stated format); None: complete. Called by
    `resolve_set` of utils/data/instruction.py."""
    resolve_prompt: Callable[[InstructionSet, Sequence[str]], InstructionSet] | None = None
    """The same for the columns of rows without answers, if the set's own rows are no longer available."""


class DatasetPlugin(Protocol):
    """The functions of a dataset, as needed for its TASK_TYPES; `config` is an instance of its Config.

    It may also define `expand(config) -> list[tuple[str, Config]]`, which returns the sets, by label, that an entry of
    evaluation.sets stands for.
    """

    Config: type[DatasetSection]

    def describe_classification(self, config: Any) -> ClassificationSet:
        """Describe the dataset for SEQ_CLS."""

    def describe_instructions(self, config: Any) -> InstructionSet:
        """Describe the dataset for CAUSAL_LM."""


def load_dataset_plugin(name: str) -> DatasetPlugin:
    """Load a dataset plug-in.

    Raises:
        KeyError: There is no such dataset.
    """
    return cast("DatasetPlugin", registry.load("datasets", name))


def describe_classification(section: DatasetSection) -> ClassificationSet:
    """Describe a section's dataset for SEQ_CLS.

    Raises:
        ConfigError: The dataset, a user's own, returns something else.
    """
    return _require(ClassificationSet, section, load_dataset_plugin(section.name).describe_classification(section))


def describe_instructions(section: DatasetSection) -> InstructionSet:
    """Describe a section's dataset for CAUSAL_LM.

    Raises:
        ConfigError: The dataset, a user's own, returns something else.
    """
    return _require(InstructionSet, section, load_dataset_plugin(section.name).describe_instructions(section))


def _require(kind: type[_S], section: DatasetSection, found: Any) -> _S:
    if not isinstance(found, kind):
        message = f"{section.name} describes its rows by {found!r}; the function has to return {kind.__name__}(...)"
        raise ConfigError([Problem(message, "dataset.name")])
    return found


def find_dataset_plugin(name: str) -> str | None:
    """Return the dataset with this name, or that knows this hub name; None for a path or an unknown name."""
    if registry.has("datasets", name):
        return registry.normalize(name)
    for plugin in registry.names("datasets"):
        if name.lower() in map(str.lower, getattr(registry.load("datasets", plugin), "HUB_NAMES", ())):
            return plugin
    return None


def sample_evenly(rows: Any, count: int) -> list[Any]:
    """Return up to `count` evenly spaced rows of a sequence."""
    step = max(1, len(rows) // count)
    return [rows[index] for index in range(0, len(rows), step)[:count]]


def as_columns(value: str | list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Normalize one column name, a list of them or None to a tuple."""
    return default if value is None else (value,) if isinstance(value, str) else tuple(value)
