"""What every dataset plug-in offers: the description of its set for either task type."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from utils.config.sections.dataset import DatasetSection
from utils.core import registry
from utils.core.texts import list_texts
from utils.data.row_files import AS_NAMED, FileFormat
from utils.data.row_files import Row as Row

if TYPE_CHECKING:
    from utils.data.rows import Rows
    from utils.data.sources import Source

Turn = dict[str, Any]
"""One turn of a conversation: role (system, user, assistant, tool) and content, a text; where a row has them:
reasoning_content, tool_calls, name, tool_call_id; `train: False` on an answer that its row excludes from training, and
`context: True` on one that is part of the prompt."""
Reference = str | dict[str, Any]
"""What a generated answer is judged by: a text, or what a metric needs to know, as a JSON object."""


FREE_METRICS = ("exact_match", "token_f1", "rouge_l")
"""Metrics of a set that has no protocol, and whose file names none: the length of its answers chooses the headline."""
_SHORT, _SENTENCE = 3, 40


def order_metrics(metrics: tuple[str, ...], references: Sequence[Reference]) -> tuple[str, ...]:
    """Put first what judges answers of such a length, where a set itself says nothing.

    Exact match for up to 3 words, as classes and numbers have; token F1 for a sentence or two; else ROUGE-L.
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
    """Not trained on, unless sft.completion_only_loss is false; empty for plain text."""
    answer: str = ""
    """Trained on; empty where the row has none."""
    question: str = ""
    """The bare request, without any template: what another dataset's prompt can be made of; empty where there is none,
    as for a conversation of several exchanges."""
    user_turn: str = ""
    """What the user says when the row is put into a chat by dataset.as_chat; empty: the prompt."""
    messages: tuple[Turn, ...] = ()
    """A conversation instead. Assistant turns are trained on."""
    tools: tuple[dict[str, Any], ...] = ()
    """What the assistant may call, as JSON schemas."""
    num_cut_turns: int = 0
    """Turns after the last answer, which were left out."""
    judged_by: Reference = ""
    """What a generated answer is judged by; empty: the answer."""
    plain: bool = False
    """Never put into a chat: a text to be continued."""
    context: str = ""
    """The part of the prompt, and of the user's turn, that alone is cut when the row is too long; empty: the whole
    prompt is."""
    unread: tuple[str, ...] = ()
    """Keys of turns that nothing reads."""
    groups: tuple[tuple[str, str], ...] = ()
    """What it is of kinds of rows that are also scored apart, such as ("level", "Level 3")."""
    rejected: Example | None = None
    """The same prompt with the answer that is liked less; None: the row is no pair."""
    margin: float | None = None
    """How much more the chosen answer is liked than the rejected one; None: it is not read."""
    is_good: bool | None = None
    """Whether the answer is a good one; None: the row does not say."""

    @property
    def whole_text(self) -> str:
        """All that is written in it."""
        other = self.rejected.whole_text if self.rejected is not None else ""
        return self.prompt + self.answer + "".join(list_texts([self.messages, self.tools])) + other

    @property
    def reference(self) -> Reference:
        """What a generated answer is judged by, else the answer or the last turn (a call as JSON), without space."""
        if self.judged_by or not self.messages:
            return self.judged_by or self.answer.strip()
        last = self.messages[-1]
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in last.get("tool_calls", ())]
        return "\n".join([last["content"].strip(), *calls]).strip()


@dataclass(frozen=True)
class Submission:
    """How predictions of one test split are written for the benchmark's server."""

    split: str
    subset: str
    file: str
    """Name of the file, without `.tsv`."""
    kind: Literal["index", "name", "score"]
    """Values as label numbers, label names, or scores clipped to 0-5."""


@dataclass(frozen=True, kw_only=True)
class SourceSet:
    """Where the rows of a set lie, and which of them train and validate."""

    path: str
    """Folder, file or hub id of the rows."""
    subset: str | None = None
    """Configuration within the path."""
    revision: str | None = None
    form: FileFormat = AS_NAMED
    train_split: str | None = "train"
    """May be cut: `train[:5000]`. None: the set cannot be trained on."""
    validation_path: str | None = None
    """A file of validation rows beside a file of training rows."""
    validation_size: float | None = None
    """Rows, or below 1 share of the rows, to hold out where there is no validation split; None or 0: none."""
    open_split: Callable[[Source, str], Rows | None] | None = None
    """Opens a split where the rows do not lie as files of rows; gives None where there is none of this name."""


@dataclass(frozen=True, kw_only=True)
class ClassificationSet(SourceSet):
    """A dataset's four answers for SEQ_CLS: classification and regression."""

    text_columns: tuple[str, ...]
    """One or two columns."""
    label_column: str
    num_labels: int | None
    """Classes; 1 for regression; None: read from the data."""
    label_names: tuple[str, ...] | None
    """Names in index order; None: read from the data."""
    metrics: tuple[str, ...]
    """The set's own metrics; the first is the task's metric."""
    eval_splits: dict[str, str] = field(default_factory=lambda: {"": "validation"})
    """Evaluation splits by the suffix of their metrics' names."""
    submissions: tuple[Submission, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InstructionSet(SourceSet):
    """A dataset's four answers for CAUSAL_LM."""

    read_row: Callable[[Row], Example]
    """Makes an example of a row; a RowError (utils/core/texts.py) says what is wrong with the row."""
    metrics: tuple[str, ...]
    """Metrics of generated answers, the headline first."""
    ask: Callable[[str], Example] | None
    """Makes this dataset's prompt (an example without answer) of a bare request, so that a model trained on this set
    can be scored on another; None: the prompt needs more than one text."""
    protocol: str
    """Names the way of prompting and scoring; stored with every score."""
    columns: tuple[str, ...] = ()
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, values of it that the section has something to say of; one that no training row has is warned of."""
    read_prompt: Callable[[Row], Example] | None = None
    """Makes the prompt (an example without answer) of a row that needs no answer; None: not resolved yet."""
    prompt_columns: tuple[str, ...] = ()
    train_split: str = "train"
    validation_split: str | None = None
    """Rows on which the loss is evaluated; None: there are none, or validation_size holds some out."""
    generation_split: str | None = None
    """Split whose prompts are answered by generating; None: the validation rows."""
    group: Callable[[Row], str] | None = None
    """Rows of one group never stand on both sides of a hold-out; None: rows of equal prompt are a group."""
    stop: tuple[str, ...] = ()
    """Texts that end a generated answer, besides the end-of-text token."""
    shots: int = 0
    """Worked examples in the prompt."""
    own_prompt: bool = False
    """Asked by its own prompt and protocol whatever the run's own prompt is, which cannot ask it."""
    max_new_tokens: int | None = None
    """Tokens that the protocol lets an answer have; None: as many as the run's."""
    min_new_tokens: int = 0
    """Tokens that an answer must have before it may end."""
    greedy: bool = False
    """The protocol takes the most likely token, whatever the run's temperature."""
    chat_exempt: bool = False
    """Never put through the chat template when it is evaluated: its prompt is a text to be continued."""
    official_truncation: bool = False
    """Evaluation prompts lose the middle of the whole prompt before they become a chat, as LongBench's do."""
    combined_metrics: tuple[str, ...] = ()
    """Metrics that count in the combined score of several sets; (): the headline."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else of the set a score depends on; stored with every result."""
    describe_count: Callable[[int], dict[str, Any]] | None = None
    """Tells more facts, by the number of the rows to answer; `load_generation_rows` adds them."""
    identify: Callable[[Row], str] | None = None
    """Gives a row's own name; those of held-out rows are recorded. None: rows have none."""
    resolve: Callable[[InstructionSet, Sequence[str]], InstructionSet] | None = None
    """Completes this very set when the rows' columns are known (custom rows of no stated format); None: complete.
    `resolve_set` of utils/data/instruction.py calls it."""
    resolve_prompt: Callable[[InstructionSet, Sequence[str]], InstructionSet] | None = None
    """The same by the columns of rows without answers, where the set's own rows are no longer here."""


class DatasetPlugin(Protocol):
    """The functions of a dataset, those for its TASK_TYPES. `config` is that dataset's own Config.

    It may also offer `expand(config) -> list[tuple[str, Config]]`: the sets, by label, as which one that is
    named under evaluation.sets is scored.
    """

    Config: type[DatasetSection]

    def describe_classification(self, config: Any) -> ClassificationSet:
        """Answer the four questions for SEQ_CLS."""

    def describe_instructions(self, config: Any) -> InstructionSet:
        """Answer the four questions for CAUSAL_LM."""


def load_dataset_plugin(name: str) -> DatasetPlugin:
    """Load a dataset plug-in.

    Raises:
        KeyError: There is no such dataset.
    """
    return cast("DatasetPlugin", registry.load("datasets", name))


def find_dataset_plugin(name: str) -> str | None:
    """Find the dataset that its own name, or the hub name of a set that it knows, means; None: a path, or nothing."""
    if registry.has("datasets", name):
        return registry.normalize(name)
    for plugin in registry.names("datasets"):
        if name.lower() in map(str.lower, getattr(registry.load("datasets", plugin), "HUB_NAMES", ())):
            return plugin
    return None


def spread(rows: Any, count: int) -> list[Any]:
    """Give some rows of a sequence, evenly spread over it."""
    step = max(1, len(rows) // count)
    return [rows[index] for index in range(0, len(rows), step)[:count]]


def columns(value: str | list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Read one column name or a list of them."""
    return default if value is None else (value,) if isinstance(value, str) else tuple(value)
