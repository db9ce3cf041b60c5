"""The protocol of a task: its declarations, the methods of a run, and the data that a run prepares.

A task is a module or folder of `utils/tasks`, or of an extension folder, with a `class Task(task.Task)`. A file chooses
it by `task_type` or by a section of its own. Code outside asks the task instead of comparing its name. train.py calls a
run's methods in the order of `TaskRun`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from utils.config.document import Document
from utils.config.section import Section
from utils.config.sections.dataset import DatasetSection
from utils.core import registry
from utils.core.errors import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from utils.config.run_config import RunConfig
    from utils.data.dataset import InstructionSet
    from utils.modeling.head import HeadSpec
    from utils.modeling.sizes import ParameterCounts
    from utils.results.record import RunRecord
    from utils.tasks.outcome import Outcome
    from utils.tasks.probe import Ask, Probe
    from utils.trainer.progress import MeasuringCallback


class Task:
    """Declarations of a task; the `class Task` of each folder of `utils/tasks` extends it.

    Declaring imports nothing heavy: `open` and later methods import what they need.
    """

    TASK_TYPE: ClassVar[str]
    """The value of `task_type`, as peft spells it."""
    SECTION: ClassVar[str | None] = None
    """The section that chooses this task in a file; with None or IS_DEFAULT the task_type is enough."""
    IS_DEFAULT: ClassVar[bool] = True
    """Whether this is the task of its task_type if the file has no other task's section."""
    GENERATES: ClassVar[bool] = False
    """Whether its models generate text; the other models output labels or numbers."""
    JUDGES: ClassVar[bool] = False
    """Whether its models score answers that others wrote."""
    ROW_TYPE: ClassVar[str | None] = None
    """The task_type whose datasets it reads; None: its own."""
    LENGTH_KEY: ClassVar[str]
    """The key of the maximum number of tokens per row."""
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """The task's own defaults of the `training:` section."""
    LOSSES: ClassVar[Mapping[str, bool]] = {}
    """Metrics from evaluating its rows without generating, each with whether greater is better; the first is the
    headline of a run that generates nothing."""
    KEEPS_BEST: ClassVar[bool] = False
    """Whether the best checkpoint becomes the final model by default."""
    PIPELINE: ClassVar[str]
    """The hub's pipeline tag of its models."""

    @classmethod
    def name(cls) -> str:
        """Return the task's name: its module or folder in `utils/tasks`."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def row_type(cls) -> str:
        """Return the task_type whose datasets it reads."""
        return cls.ROW_TYPE or cls.TASK_TYPE

    @classmethod
    def reads_answers(cls) -> bool:
        """Return whether its rows are prompts with answers, not texts with labels."""
        return cls.GENERATES or cls.JUDGES

    @classmethod
    def sections(cls) -> dict[str, Callable[[], type[Section]]]:
        """Return builders of the classes of its own sections, by section name."""
        return {}

    @classmethod
    def own_metric(cls, read: Mapping[str, Section]) -> str | None:
        """Return the metric of the best checkpoint if the run's sections name none; None: the loss."""
        return None

    @classmethod
    def evaluates_itself(cls, config: RunConfig) -> bool:
        """Return whether that metric comes from the task's own evaluations instead of the Trainer's.

        If so, `check` has its rules, and a resumed run may choose another such metric.
        """
        return False

    @classmethod
    def headline(cls, config: RunConfig) -> str | None:
        """Return the metric by which a suite compares runs; None: the headline in a run's own record."""
        return None

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Yield problems that need the whole configuration to find; the document locates keys in the file.

        Files that it names are only checked if `files` is set: those of an earlier run may be gone.
        """
        return iter(())

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Map each key to whether its value has no effect, and the reason."""
        return {}

    @classmethod
    def measure_base(cls, config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Measure the base before an adapter is attached, for later comparison; the model is left unchanged."""
        return

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        raise NotImplementedError

    @classmethod
    def arguments_class(cls) -> type[TrainingArguments]:
        """Return the class of the trainer's arguments."""
        from transformers import TrainingArguments

        arguments: type[TrainingArguments] = TrainingArguments
        return arguments

    @classmethod
    def build_collator(cls, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Build the function that collates encoded rows with labels into a padded batch."""
        raise NotImplementedError

    @classmethod
    def build_head(cls, label_names: Sequence[str]) -> HeadSpec | None:
        """Describe the head of a trained model; None for a language model."""
        return None

    @classmethod
    def count_labels(cls, dataset: DatasetSection) -> int | None:
        """Count the outputs of the head that a dataset needs; None: no new head; 0: only the rows tell."""
        return None

    @classmethod
    def describe_rows(cls, config: RunConfig) -> InstructionSet:
        """Describe the dataset's rows for a run on prompts with answers."""
        raise NotImplementedError

    @classmethod
    def count_texts(cls, dataset: DatasetSection) -> int:
        """Count the texts that one answer takes as input."""
        return 1


class PreparedData(Protocol):
    """The prepared data of a run, as training needs it."""

    @property
    def num_train_rows(self) -> int:
        """Number of rows per epoch; 0 if nothing can be trained on."""

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Classes in the order of their ids, empty for regression; None for language models."""

    @property
    def fingerprint(self) -> str:
        """Hash of all rows used."""

    @property
    def commit(self) -> str | None:
        """Resolved commit of a hub dataset."""

    @property
    def reports(self) -> Mapping[str, Any]:
        """Report on each split."""

    def count_shown(self) -> tuple[int, int]:
        """Count the rows, and their tokens, in training and its evaluations, each once."""

    def list_training_lengths(self) -> list[int]:
        """Count the tokens of every row of an epoch."""

    def draw_training_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draw tokenized training rows with labels by a seed; all of them if there are fewer."""

    def probe_rows(self, count: int) -> list[dict[str, Any]]:
        """Return some rows as texts, spread over the split, by which later checks identify the model."""


class TaskRun(Protocol):
    """One run of a task, from its data to its verification."""

    def prepare_data(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Load, check and tokenize the rows."""

    def fingerprint_rows(self) -> str:
        """Read the rows without a tokenizer, and return the fingerprint that `prepare_data` would."""

    def preview(self, data: Any, tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, Any]:
        """Print the first training rows as the model will see them, and return them for `--json`."""

    def describe_head(self, data: Any) -> HeadSpec | None:
        """Describe the head that the base model gets; None for a language model."""

    def build_trainer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Any) -> Trainer:
        """Build the trainer, ready to train."""

    def score(
        self, trainer: Any, data: Any, record: RunRecord, counts: ParameterCounts, measuring: MeasuringCallback
    ) -> Outcome:
        """Score the current model, and complete the record with the measurements."""

    def choose_reload_rows(self, data: Any, tokenizer: PreTrainedTokenizerBase) -> Ask | None:
        """Choose rows for verifying that the saved model is the trained one; None without rows."""

    def open_probe(
        self, label_names: tuple[str, ...], run: Path | None, tokenizer: PreTrainedTokenizerBase, num_eval: int
    ) -> Probe:
        """Open the probe of a trained model (`run` None: trained elsewhere), scored on at most `num_eval` rows."""


def load_task(name: str) -> type[Task]:
    """Load a task by its name in `RunConfig.task`.

    Raises:
        KeyError: There is no such task.
    """
    task: type[Task] = registry.load("tasks", name).Task
    return task


@registry.remember
def all_tasks() -> Mapping[str, type[Task]]:
    """Load all tasks, by name."""
    return MappingProxyType({name: load_task(name) for name in registry.names("tasks")})


@registry.remember
def task_types() -> tuple[str, ...]:
    """Return the values of `task_type`."""
    return tuple(dict.fromkeys(task.TASK_TYPE for task in all_tasks().values()))


@registry.remember
def task_sections() -> Mapping[str, Callable[[], type[Section]]]:
    """Return builders of the sections that only some tasks read, by section name."""
    return MappingProxyType({name: build for task in all_tasks().values() for name, build in task.sections().items()})


def find_tasks(task_type: Any) -> dict[str, type[Task]]:
    """Find the tasks of a `task_type`, by name; empty for an unknown type."""
    return {name: task for name, task in all_tasks().items() if task_type == task.TASK_TYPE}


def default_task(task_type: str) -> type[Task]:
    """Return the task that a `task_type` alone chooses.

    Raises:
        KeyError: There is none.
    """
    if (found := next((task for task in find_tasks(task_type).values() if task.IS_DEFAULT), None)) is None:
        raise KeyError(task_type)
    return found


def choose_task(document: Document, task_type: Any) -> type[Task] | None:
    """Choose the task of a file by a section of its own, else by its task_type; None if there is none."""
    found = sorted(find_tasks(task_type).values(), key=lambda task: task.IS_DEFAULT)  # which an extended file may name
    named = [task for task in found if task.IS_DEFAULT or (task.SECTION and document.has((task.SECTION,)))]
    return named[0] if named else None


def open_task(config: RunConfig) -> TaskRun:
    """Open the run that a configuration describes."""
    return load_task(config.task).open(config)
