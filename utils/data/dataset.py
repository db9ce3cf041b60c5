"""What every dataset plug-in offers: the sections' bases, and the descriptions of a set for either task type."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

from pydantic import Field, field_validator

from utils.config.section import Section
from utils.core import registry
from utils.data.classification_set import ClassificationSet
from utils.data.row_files import AS_NAMED, FileFormat
from utils.data.texts import PromptTemplate, list_texts, parse_split

if TYPE_CHECKING:
    from utils.data.rows import Rows

Row = dict[str, Any]
Turn = dict[str, Any]
"""One turn of a conversation: role (system, user, assistant, tool) and content, a text; where a row has them:
reasoning_content, tool_calls, name, tool_call_id; `train: False` on an answer that its row excludes from training, and
`context: True` on one that is part of the prompt."""
Reference = str | dict[str, Any]
"""What a generated answer is judged by: a text, or what a metric needs to know, as a JSON object."""


class DatasetSection(Section):
    """The `dataset:` section; a dataset may add fields of its own."""

    ALIASES: ClassVar[dict[str, str]] = {
        "max_samples": "max_train_samples", "task": "subset", "config": "subset", "dataset_path": "path",
        "data_path": "path",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"name", "path", "revision", "max_train_samples", "max_eval_samples", "on_bad_row"}
    )
    TASK_TYPES: ClassVar[tuple[str, ...]] = ()
    ONLY_FOR: ClassVar[dict[str, str]] = {}
    """Fields that only one task type reads, and that type."""

    name: str
    """A dataset of `utils/data`, or the hub id, folder or file of your own set (then the room is custom)."""
    path: str | None = None
    """Folder, file or hub id to take the rows from; null: the dataset's own."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    subset: str | None = None
    """Configuration of the set, such as `cola`."""
    max_train_samples: int | None = Field(None, ge=1)
    """Train on this many rows, drawn by the seed; null: all."""
    max_eval_samples: int | None = Field(None, ge=1)
    """Evaluate on the first this many rows; the result is then marked partial. null: all."""
    on_bad_row: Literal["stop", "drop"] = "stop"
    """Rows that cannot be used (a missing value, no or an unknown label, an unknown role, an answer labelled false
    ...): stop, or leave them out, which is counted and reported."""

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that say otherwise than the set itself, each with what is right."""
        return {}


class ClassificationSection(DatasetSection):
    """What a room for SEQ_CLS reads."""

    ALIASES: ClassVar[dict[str, str]] = {
        **DatasetSection.ALIASES, "text_columns": "text_column", "max_seq_length": "max_length",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = DatasetSection.SHARED_FIELDS | {"max_length"}
    TASK_TYPES: ClassVar[tuple[str, ...]] = ("SEQ_CLS",)
    ONLY_FOR: ClassVar[dict[str, str]] = dict.fromkeys(("label_column", "num_labels", "max_length"), "SEQ_CLS")

    text_column: str | list[str] | None = None
    """One or two columns that hold the text; null: the dataset's own."""
    label_column: str | None = None
    """The column of the label; null: the dataset's own."""
    num_labels: int | None = Field(None, ge=1)
    """Number of classes, 1 for regression; null: the dataset's own, or read from the data."""
    quoting: bool | None = None
    """csv and tsv files: whether a field in quotes may hold separators and line ends. null: in a csv it may; in a
    tsv quotes are characters like others, and each line is a row."""
    max_length: int = Field(128, ge=1)
    """SEQ_CLS: tokens a row may have; what is longer is cut at the end, counted and reported."""


class InstructionSection(DatasetSection):
    """What a room for CAUSAL_LM reads: how rows become prompts and answers, and what happens to odd ones."""

    ALIASES: ClassVar[dict[str, str]] = {
        **DatasetSection.ALIASES, "split": "train_split", "validation_fraction": "validation_size",
        "val_size": "validation_size", "val_set_size": "validation_size", "template": "prompt_template",
        "eval_split": "validation_split",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = DatasetSection.SHARED_FIELDS | {
        "prompt_template", "as_chat", "system_prompt", "truncation", "split_long", "special_tokens_in_text",
        "max_empty_share", "allow_leakage",
    }  # fmt: skip
    TASK_TYPES: ClassVar[tuple[str, ...]] = ("CAUSAL_LM",)
    ONLY_FOR: ClassVar[dict[str, str]] = dict.fromkeys(SHARED_FIELDS - DatasetSection.SHARED_FIELDS, "CAUSAL_LM")

    prompt_template: str | None = None
    """CAUSAL_LM: the prompt with columns in braces, `Question: {question}\\nAnswer:`; null: the dataset's own. It is
    the prompt in training, evaluation and inference."""
    as_chat: bool = False
    """CAUSAL_LM: put prompt and answer through the model's chat template, as a user's and an assistant's turn."""
    system_prompt: str | None = None
    """CAUSAL_LM: a system turn before every chat that has none of its own."""
    train_split: str = "train"
    """Split to train on; a part of it may be cut out: `train[:5000]`, `train[10%:20%]`."""
    validation_split: str | None = None
    """Split on which the loss is evaluated; null: the dataset's own, or rows held out by validation_size."""
    validation_size: float | None = Field(None, ge=0)
    """Rows (500), or below 1 the share of the rows (0.05), held out of the training rows by the seed, where there is
    no validation split; SEQ_CLS: of each class its share. null: the dataset's own; 0: none."""
    truncation: Literal["keep_answer", "cut_answer", "drop", "error"] = "keep_answer"
    """CAUSAL_LM, rows longer than sft.max_length. keep_answer: cut the middle of the prompt (of a row about a document,
    that of the document alone) down to a quarter of the length at most; rows whose answer is still too long are left
    out and counted. cut_answer: the same, but such answers lose their ends, and the model learns no end from them.
    drop: leave the row out. error: stop. A conversation loses its later exchanges first; a plain text its end, unless
    dataset.split_long is set."""
    split_long: bool = False
    """CAUSAL_LM, plain texts longer than sft.max_length: cut them into pieces that fit, each a row of its own, of which
    only the last ends with the end-of-text token; false: they lose their ends."""
    special_tokens_in_text: Literal["keep", "escape"] = "keep"
    """CAUSAL_LM, special tokens such as <|im_end|> that stand in a row's own text, which are counted either way. keep:
    the model reads them as special tokens; escape: as the ordinary characters that they are made of (of a row that
    goes through no chat template, also those of the prompt_template). A text that is read as it is, with a template's
    tokens in it, needs keep."""
    max_empty_share: float = Field(0.05, ge=0, le=1)
    """CAUSAL_LM: stop when more than this share of the rows has no token to train on, or is too long even without the
    middle of its prompt."""
    allow_leakage: bool | None = None
    """CAUSAL_LM: train although rows of an evaluation set stand in the training rows, which is stored with the
    scores; false: never do. null: warn of such prompts, and refuse rows of sets asked by a prompt of their own."""

    @field_validator("prompt_template")
    @classmethod
    def _readable_template(cls, value: str | None) -> str | None:
        if value is not None and not PromptTemplate.parse(value).columns:
            raise ValueError("names no column in braces, so that every prompt would be the same; write {question}, say")
        return value

    @field_validator("train_split", "validation_split")
    @classmethod
    def _readable_split(cls, value: str | None) -> str | None:
        if value is not None:
            parse_split(value)
        return value

    @field_validator("validation_size")
    @classmethod
    def _whole_rows(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError("is a whole number of rows, or a share below 1")
        return value

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that have no effect here, each with what is right."""
        found = {"split_long": "only plain texts are cut into pieces; leave it out"} if self.split_long else {}
        if self.system_prompt is not None and not self.as_chat:
            found["system_prompt"] = "these rows are no chats; set dataset.as_chat: true"
        return found


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

    @property
    def whole_text(self) -> str:
        """All that is written in it."""
        return self.prompt + self.answer + "".join(list_texts([self.messages, self.tools]))

    @property
    def reference(self) -> Reference:
        """What a generated answer is judged by, else the answer or the last turn (a call as JSON), without space."""
        if self.judged_by or not self.messages:
            return self.judged_by or self.answer.strip()
        last = self.messages[-1]
        calls = [json.dumps(call["function"], ensure_ascii=False) for call in last.get("tool_calls", ())]
        return "\n".join([last["content"].strip(), *calls]).strip()


@dataclass(frozen=True)
class InstructionSet:
    """A dataset's four answers for CAUSAL_LM."""

    path: str
    """Folder, file or hub id of the rows."""
    read_row: Callable[[Row], Example]
    """Makes an example of a row; a RowError (utils/data/texts.py) says what is wrong with the row."""
    metrics: tuple[str, ...]
    """Metrics of generated answers, the headline first."""
    ask: Callable[[str], Example] | None
    """Makes this dataset's prompt (an example without answer) of a bare request, so that a model trained on this set
    can be scored on another; None: the prompt needs more than one text."""
    protocol: str
    """Names the way of prompting and scoring; stored with every score."""
    columns: tuple[str, ...] = ()
    """Columns that are read."""
    read_prompt: Callable[[Row], Example] | None = None
    """Makes the prompt (an example without answer) of a row that needs no answer; None: not settled yet."""
    prompt_columns: tuple[str, ...] = ()
    """Columns that read_prompt needs."""
    subset: str | None = None
    """Configuration within the path."""
    revision: str | None = None
    """Revision of a hub dataset."""
    form: FileFormat = AS_NAMED
    """How local files are read."""
    train_split: str = "train"
    """May be cut: `train[:5000]`."""
    validation_split: str | None = None
    """Rows on which the loss is evaluated; None: there are none, or validation_size holds some out."""
    validation_path: str | None = None
    """A file of validation rows beside a file of training rows."""
    validation_size: float | None = None
    """Rows, or below 1 share of the rows, to hold out where there is no validation split; None or 0: none."""
    generation_split: str | None = None
    """Split whose prompts are answered by generating; None: the validation rows."""
    group: Callable[[Row], str] | None = None
    """Rows of one group never stand on both sides of a hold-out; None: rows of equal prompt are a group."""
    stop: tuple[str, ...] = ()
    """Texts that end a generated answer, besides the end-of-text token."""
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
    open_split: Callable[[str], Rows | None] | None = None
    """Opens a split where the rows do not lie as files of rows; None when there is none of this name."""
    resolve: Callable[[InstructionSet, Sequence[str]], InstructionSet] | None = None
    """Completes this very set when the rows' columns are known (custom rows of no stated format); None: complete.
    `resolve_set` of utils/data/instruction.py calls it."""
    resolve_prompt: Callable[[InstructionSet, Sequence[str]], InstructionSet] | None = None
    """The same by the columns of rows without answers, where the set's own rows are no longer here."""


class DatasetPlugin(Protocol):
    """The functions of a dataset. `config` is that dataset's own Config; a dataset has those of its TASK_TYPES.

    A dataset may also offer `expand(config) -> list[tuple[str, Config]]`: the sets, by label, as which one that is
    named under evaluation.sets is scored.
    """

    Config: type[DatasetSection]

    def describe_classification(self, config: Any) -> ClassificationSet:
        """Answer the four questions for SEQ_CLS."""

    def describe_instructions(self, config: Any) -> InstructionSet:
        """Answer the four questions for CAUSAL_LM."""


def load_dataset_plugin(name: str) -> DatasetPlugin:
    """Open a dataset plug-in.

    Raises:
        KeyError: There is no such dataset.
    """
    return cast("DatasetPlugin", registry.load("data", name))


def count_held_out(size: float, num_rows: int) -> int:
    """Count the rows that a validation size holds out: so many, or below 1 this share, rounded up."""
    return math.ceil(size * num_rows) if size < 1 else int(size)


def spread(rows: Any, count: int) -> list[Any]:
    """Give some rows of a sequence, evenly spread over it."""
    step = max(1, len(rows) // count)
    return [rows[index] for index in range(0, len(rows), step)[:count]]


def columns(value: str | list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Read one column name or a list of them."""
    return default if value is None else (value,) if isinstance(value, str) else tuple(value)
