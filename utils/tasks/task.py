"""What a task is: what it declares, what one run of it does, and what a run has to know of its data.

A task is a module or folder of `utils/tasks`, or of an added folder, with a `class Task(task.Task)`: the kind of run
that a file's `task_type`, or a section of its own, asks for. Nobody else compares a task's name: whoever needs to know
what depends on it asks the task. train.py calls a run's methods in the order in which they stand in `TaskRun`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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
    """What a task declares; the `class Task` of each folder of `utils/tasks` extends it.

    Nothing heavy is imported to declare it: `open` and what comes after it import what they need.
    """

    TASK_TYPE: ClassVar[str]
    """The value of `task_type`, as peft spells it."""
    SECTION: ClassVar[str | None] = None
    """The section of its own by which a file asks for it; None, or IS_DEFAULT: the task_type is enough."""
    IS_DEFAULT: ClassVar[bool] = True
    """Whether it is the one of its task_type where the file has no other's section."""
    GENERATES: ClassVar[bool] = False
    """Whether its models write text; those of others answer with labels or numbers."""
    JUDGES: ClassVar[bool] = False
    """Whether its models give a number to answers that others wrote."""
    ROW_TYPE: ClassVar[str | None] = None
    """The task_type whose datasets it reads; None: its own."""
    LENGTH_KEY: ClassVar[str]
    """The setting that bounds the tokens of a row."""
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Its own defaults of the `training:` section."""
    LOSSES: ClassVar[Mapping[str, bool]] = {}
    """What an evaluation of its rows gives beside answers that are written, and whether more of it is better; the first
    is the headline of a run that writes none."""
    KEEPS_BEST: ClassVar[bool] = False
    """Whether the best checkpoint is the final model unless the file says otherwise."""
    PIPELINE: ClassVar[str]
    """The hub's name for what its models do."""

    @classmethod
    def name(cls) -> str:
        """Name the module that it stands in: a folder, or a file, of `utils/tasks`."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def row_type(cls) -> str:
        """Name the task_type whose datasets it reads."""
        return cls.ROW_TYPE or cls.TASK_TYPE

    @classmethod
    def reads_answers(cls) -> bool:
        """Tell whether its rows are prompts with answers, not texts with labels."""
        return cls.GENERATES or cls.JUDGES

    @classmethod
    def sections(cls) -> dict[str, Callable[[], type[Section]]]:
        """Give, by name, what builds the classes of the sections that it reads beside those of every run."""
        return {}

    @classmethod
    def own_metric(cls, read: Mapping[str, Section]) -> str | None:
        """Name the metric that chooses the best checkpoint where the run's sections name none; None: the loss."""
        return None

    @classmethod
    def evaluates_itself(cls, config: RunConfig) -> bool:
        """Tell whether that metric is one of evaluations of the task's own, apart from the Trainer's.

        `check` has the rules for it then, and another such metric may be chosen when a run is resumed.
        """
        return False

    @classmethod
    def headline(cls, config: RunConfig) -> str | None:
        """Name the metric under which a suite compares runs; None: what a run's own record says."""
        return None

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Check what needs the whole configuration; the document says where each key was written.

        Files that it names are looked for where `files` is on; those of a run that was written down may be gone.
        """
        return iter(())

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Give by key whether its value has no effect, and why."""
        return {}

    @classmethod
    def measure_base(cls, config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Measure what is compared later on the base model, before an adapter is attached; it is left as it was."""
        return

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        raise NotImplementedError

    @classmethod
    def arguments_class(cls) -> type[TrainingArguments]:
        """Give the class that its trainer takes its arguments in."""
        from transformers import TrainingArguments

        arguments: type[TrainingArguments] = TrainingArguments
        return arguments

    @classmethod
    def build_collator(cls, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Build what makes a padded batch of encoded rows with labels."""
        raise NotImplementedError

    @classmethod
    def build_head(cls, label_names: Sequence[str]) -> HeadSpec | None:
        """Describe the head of a trained model; None: it is a language model."""
        return None

    @classmethod
    def count_labels(cls, dataset: DatasetSection) -> int | None:
        """Count the outputs of the head that a dataset needs; None: there is no new head; 0: only the rows tell."""
        return None

    @classmethod
    def describe_rows(cls, config: RunConfig) -> InstructionSet:
        """Say what the dataset's rows are to a run whose model writes text."""
        raise NotImplementedError

    @classmethod
    def count_texts(cls, dataset: DatasetSection) -> int:
        """Count the texts that one answer takes."""
        return 1


class PreparedData(Protocol):
    """What training needs to know of the data of either kind."""

    @property
    def num_train_rows(self) -> int:
        """Rows that the trainer sees in an epoch; 0 where nothing can be trained on."""

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
        """What was found in each split."""

    def count_shown(self) -> tuple[int, int]:
        """Count the rows that training and its evaluations show the model, each once, and their tokens."""

    def list_training_lengths(self) -> list[int]:
        """Count the tokens of every row of an epoch, as the trainer sees it."""

    def draw_training_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draw tokenised training rows with their labels by a seed; all of them where there are no more."""

    def probe_rows(self, count: int) -> list[dict[str, Any]]:
        """Give some rows as texts, spread over the split, by which later checks know the model again."""


class TaskRun(Protocol):
    """How one run prepares, trains, scores and proves itself."""

    def prepare_data(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Load, check and tokenise the rows."""

    def fingerprint_rows(self) -> str:
        """Read the rows, without a tokenizer, and give the fingerprint that `prepare_data` gives them."""

    def preview(self, data: Any, tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, Any]:
        """Print the first training rows as the model will see them, and give them for `--json`."""

    def describe_head(self, data: Any) -> HeadSpec | None:
        """Describe the task head that the base model gets; None: it is a language model."""

    def build_trainer(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Any) -> Trainer:
        """Build the trainer, ready to train."""

    def score(
        self, trainer: Any, data: Any, record: RunRecord, counts: ParameterCounts, measuring: MeasuringCallback
    ) -> Outcome:
        """Score the model as it is now and put what was measured into the record."""

    def choose_reload_rows(self, data: Any, tokenizer: PreTrainedTokenizerBase) -> Ask | None:
        """Choose rows that tell whether what was saved is what was trained; None where there are none."""

    def open_probe(
        self, label_names: tuple[str, ...], run: Path | None, tokenizer: PreTrainedTokenizerBase, num_eval: int
    ) -> Probe:
        """Make the probe of a trained model, whose run is None where it was made elsewhere; scored on so many rows."""


def load_task(name: str) -> type[Task]:
    """Load what a task declares, by the name in `RunConfig.task`.

    Raises:
        KeyError: There is no such task.
    """
    task: type[Task] = registry.load("tasks", name).Task
    return task


def all_tasks() -> dict[str, type[Task]]:
    """Load what every task declares, by name."""
    return {name: load_task(name) for name in registry.names("tasks")}


def task_types() -> tuple[str, ...]:
    """Name the values that `task_type` takes."""
    return tuple(dict.fromkeys(task.TASK_TYPE for task in all_tasks().values()))


def task_sections() -> dict[str, Callable[[], type[Section]]]:
    """Give, by name, what builds the sections that only some tasks read."""
    return {name: build for task in all_tasks().values() for name, build in task.sections().items()}


def find_tasks(task_type: Any) -> dict[str, type[Task]]:
    """Find the tasks of a `task_type`, by name; none where there is no such type."""
    return {name: task for name, task in all_tasks().items() if task_type == task.TASK_TYPE}


def default_task(task_type: str) -> type[Task]:
    """Give the task that a `task_type` alone stands for.

    Raises:
        KeyError: There is none.
    """
    return next(task for task in find_tasks(task_type).values() if task.IS_DEFAULT)


def choose_task(document: Document, task_type: Any) -> type[Task] | None:
    """Choose the task that a file asks for: by a section of its own, else by its task_type; None: there is none."""
    found = find_tasks(task_type)
    named = [task for task in found.values() if task.SECTION and document.has((task.SECTION,))]
    named.sort(key=lambda task: task.IS_DEFAULT)  # an extended file may bring the default's section along
    return named[0] if named else default_task(task_type) if found else None


def open_task(config: RunConfig) -> TaskRun:
    """Open the kind of run that a configuration asks for."""
    return load_task(config.task).open(config)
