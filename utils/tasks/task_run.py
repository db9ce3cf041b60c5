"""What one run of a task does, and what it has to know of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from utils.modeling.labels import HeadSpec
    from utils.modeling.sizes import ParameterCounts
    from utils.results.record import RunRecord
    from utils.tasks.outcome import Outcome
    from utils.tasks.probe import Ask
    from utils.trainer.callbacks.measuring import MeasuringCallback


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
