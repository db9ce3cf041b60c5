"""What training asks of a run's configuration, of its data, and of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from utils.adapters.adapter import AdapterSection
    from utils.modeling.labels import HeadSpec
    from utils.modeling.parameters import ParameterCounts
    from utils.modeling.section import ModelSection
    from utils.results.record import RunRecord
    from utils.training.callbacks.measuring import MeasuringCallback
    from utils.training.outcome import Outcome


class RunSettings(Protocol):
    """The parts of a run's configuration that training reads."""

    @property
    def task_type(self) -> str:
        """`SEQ_CLS` or `CAUSAL_LM`."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def model(self) -> ModelSection:
        """The base model."""

    @property
    def peft(self) -> AdapterSection:
        """The method."""

    @property
    def dataset(self) -> Any:
        """The section of the dataset plug-in."""

    @property
    def training(self) -> Any:
        """The `training:` section."""

    @property
    def sft(self) -> Any:
        """The `sft:` section; None for SEQ_CLS."""

    @property
    def generation(self) -> Any:
        """The `generation:` section; None for SEQ_CLS."""

    @property
    def evaluation(self) -> Any:
        """The `evaluation:` section; None for SEQ_CLS."""

    @property
    def length_key(self) -> str:
        """The setting that bounds the tokens of a row."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What TrainingArguments is built from."""


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

    def draw_training_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draw tokenised training rows with their labels by a seed; all of them where there are no more."""

    def probe_rows(self, count: int) -> list[dict[str, Any]]:
        """Give some rows as texts, spread over the split, by which later checks know the model again."""


class Task(Protocol):
    """How one kind of run prepares, trains, scores and proves itself."""

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

    def check_reload(self, trainer: Any, data: Any, load_saved: Callable[[], PreTrainedModel]) -> dict[str, Any] | None:
        """Prove that what was saved is what was trained."""
