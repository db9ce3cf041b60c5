"""Runs of classification and regression: labelled data, a new head, transformers' Trainer, scores by split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter_path import find_adapter
from utils.config.sections.dataset import ClassificationSection
from utils.data.classification import ClassificationData, fingerprint_set, prepare_classification
from utils.data.dataset import describe_classification
from utils.data.labels import order_as_trained
from utils.metrics.metric import load_metric
from utils.modeling.head import (
    LABELS_FILE,
    HeadSpec,
    build_head_spec,
    find_label_file,
    read_label_names,
    read_label_order,
)
from utils.tasks.classification.building import build_classification_trainer
from utils.tasks.classification.probe import draw_reload_rows, open_probe
from utils.tasks.classification.scoring import collect_outcome, predict_tests, score_classification

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.modeling.sizes import ParameterCounts
    from utils.results.record import RunRecord
    from utils.tasks.classification.trainer import ClassificationTrainer
    from utils.tasks.outcome import Outcome
    from utils.tasks.probe import Ask, Probe
    from utils.trainer.progress import MeasuringCallback

logger = logging.getLogger(__name__)


class ClassificationRun:
    """A SEQ_CLS run; see `utils.tasks.task.TaskRun`."""

    def __init__(self, settings: RunConfig) -> None:
        self._settings = settings

    def prepare_data(self, tokenizer: PreTrainedTokenizerBase) -> ClassificationData:
        """Prepare the data that `dataset:` describes, with label ids in the checkpoint's order.

        Raises:
            DataError: The rows cannot be used.
        """
        section, model = self._settings.section(ClassificationSection), self._settings.model
        spec = describe_classification(section)
        for name in spec.metrics:
            load_metric(name).prepare()
        reorder = self._adapter_class_order() or (lambda names: read_label_order(model, tuple(names)))
        return prepare_classification(spec, section, tokenizer, self._settings.seed, reorder)

    def _adapter_class_order(self) -> Callable[[Mapping[str, str]], tuple[str, ...]] | None:
        """Return a function that keeps the class order of the adapter in `adapter_path`, whose head is reused."""
        peft = self._settings.peft
        if peft.adapter_path is None:
            return None
        folder = find_adapter(peft)
        if (file := find_label_file(folder, folder.parent)) is None:
            logger.warning(
                "peft.adapter_path: %s does not name its classes (%s); the data's order is used",
                folder, LABELS_FILE,
            )  # fmt: skip
            return None
        names = read_label_names(file)
        return order_as_trained(names, f"peft.adapter_path: {folder}") if names else None

    def fingerprint_rows(self) -> str:
        """Hash the current rows."""
        section = self._settings.section(ClassificationSection)
        spec = describe_classification(section)
        return fingerprint_set(spec, section, self._settings.seed)

    def preview(self, data: ClassificationData, tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, Any]:
        """Print the first rows, decoded, with their labels."""
        from utils.core.terminal import build_console

        split, names = data.train or next(iter(data.evals.values())), data.label_names
        rows = [
            {"text": tokenizer.decode(row["input_ids"]), "label": names[row["labels"]] if names else row["labels"]}
            for row in split.dataset.select(range(min(count, len(split.dataset))))
        ]
        for row in rows:
            build_console().print(f"{row['label']}  {row['text']}", markup=False, highlight=False, soft_wrap=True)
        return {"rows": rows}

    def describe_head(self, data: ClassificationData) -> HeadSpec:
        """Describe the head for the data's labels."""
        return build_head_spec(data.coder.names)

    def build_trainer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: ClassificationData
    ) -> ClassificationTrainer:
        """Build the trainer with the run's data order and loss, and the method's learning rates."""
        return build_classification_trainer(self._settings, model, tokenizer, data)

    def score(
        self,
        trainer: ClassificationTrainer,
        data: ClassificationData,
        record: RunRecord,
        counts: ParameterCounts,
        measuring: MeasuringCallback,
    ) -> Outcome:
        """Score every evaluation split, and predict the test splits of a benchmark server."""
        scores = score_classification(trainer, data)
        outcome = collect_outcome(record, trainer, data, scores, counts, measuring)
        outcome.predicted = predict_tests(trainer, data)
        return outcome

    def choose_reload_rows(self, data: ClassificationData, tokenizer: PreTrainedTokenizerBase) -> Ask | None:
        """Draw validation rows."""
        return draw_reload_rows(data, tokenizer, self._settings.seed)

    def open_probe(
        self, label_names: tuple[str, ...], run: Path | None, tokenizer: PreTrainedTokenizerBase, num_eval: int
    ) -> Probe:
        """Open the probe of a classifier."""
        return open_probe(self._settings, label_names, run, tokenizer, num_eval)
