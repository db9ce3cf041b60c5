"""A toy task outside the library, in one file: predict how many tokens a text has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from utils.config.document import Document
from utils.config.section import Section
from utils.config.sections.dataset import ClassificationSection, DatasetSection
from utils.core.errors import Problem
from utils.modeling.head import HeadSpec, build_head_spec
from utils.tasks import task

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.modeling.sizes import ParameterCounts
    from utils.results.record import RunRecord
    from utils.tasks.outcome import Outcome
    from utils.tasks.probe import Ask, Probe
    from utils.trainer.base import LoraNsTrainer
    from utils.trainer.progress import MeasuringCallback


class ToySection(Section):
    """What is counted."""

    unit: float = Field(10.0, gt=0)
    """Tokens that count as 1."""


class Task(task.Task):
    """See `utils.tasks.task.Task`."""

    TASK_TYPE = "SEQ_CLS"
    SECTION = "toy"
    IS_DEFAULT = False
    LENGTH_KEY = "dataset.max_length"
    PIPELINE = "text-classification"

    @classmethod
    def sections(cls) -> dict[str, Callable[[], type[Section]]]:
        """Return the section that selects this task."""
        return {"toy": lambda: ToySection}

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Check that there is something to count up to."""
        if config.section(ToySection).unit > config.max_length:
            yield Problem(f"more than dataset.max_length ({config.max_length}), so no text counts as 1", "toy.unit")

    @classmethod
    def open(cls, config: RunConfig) -> CountingRun:
        """Open one run."""
        return CountingRun(config)

    @classmethod
    def build_collator(cls, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Pad the inputs."""
        from transformers import DataCollatorWithPadding

        collator: Callable[[list[dict[str, Any]]], Any] = DataCollatorWithPadding(tokenizer)
        return collator

    @classmethod
    def build_head(cls, label_names: Sequence[str]) -> HeadSpec:
        """Describe a head of one number."""
        return build_head_spec(())

    @classmethod
    def count_labels(cls, dataset: DatasetSection) -> int:
        """Count the one output."""
        return 1


@dataclass
class CountingData:
    """See `utils.tasks.task.PreparedData`."""

    train: Dataset
    validation: Dataset
    fingerprint: str
    label_names: tuple[str, ...] = ()
    commit: str | None = None

    @property
    def num_train_rows(self) -> int:
        """Number of training rows in an epoch."""
        return len(self.train)

    @property
    def reports(self) -> Mapping[str, Any]:
        """There is nothing to report."""
        return {}

    def count_shown(self) -> tuple[int, int]:
        """Count rows and their tokens."""
        shown = (self.train, self.validation)
        return sum(map(len, shown)), sum(len(ids) for each in shown for ids in each["input_ids"][:])

    def draw_training_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draw encoded rows."""
        rows: list[dict[str, Any]] = self.train.shuffle(seed=seed).select(range(min(count, len(self.train)))).to_list()
        return rows

    def probe_rows(self, count: int) -> list[dict[str, Any]]:
        """Return some texts."""
        return [{"text": text} for text in self.validation["text"][:count]]


class CountingRun:
    """See `utils.tasks.task.TaskRun`."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def prepare_data(self, tokenizer: PreTrainedTokenizerBase) -> CountingData:
        """Encode the texts; their lengths are the labels."""
        from datasets import Dataset

        unit = self._config.section(ToySection).unit

        def encode(split: str) -> Dataset:
            texts = self._read_texts(split)
            encoded = [tokenizer(text, truncation=True, max_length=self._config.max_length) for text in texts]
            ids = [each["input_ids"] for each in encoded]
            labels = [len(each) / unit for each in ids]
            return Dataset.from_dict({"text": texts, "input_ids": ids, "labels": labels})

        return CountingData(encode("train"), encode("validation"), self.fingerprint_rows())

    def fingerprint_rows(self) -> str:
        """Hash the texts."""
        import hashlib

        texts = [self._read_texts(split) for split in ("train", "validation")]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    def preview(self, data: CountingData, tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, Any]:
        """Return the first rows."""
        return {"rows": data.train.select(range(min(count, len(data.train)))).to_list()}

    def describe_head(self, data: CountingData) -> HeadSpec:
        """Describe a head of one number."""
        return Task.build_head(data.label_names)

    def build_trainer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: CountingData
    ) -> LoraNsTrainer:
        """Build the trainer that every task has; the model itself computes the loss."""
        from utils.trainer.base import LoraNsTrainer
        from utils.trainer.building import build_arguments, build_trainer

        return build_trainer(
            LoraNsTrainer,
            self._config,
            model=model,
            args=build_arguments(self._config),
            train_dataset=data.train.remove_columns("text"),
            eval_dataset=data.validation.remove_columns("text"),
            processing_class=tokenizer,
            data_collator=Task.build_collator(tokenizer),
        )

    def score(
        self,
        trainer: LoraNsTrainer,
        data: CountingData,
        record: RunRecord,
        counts: ParameterCounts,
        measuring: MeasuringCallback,
    ) -> Outcome:
        """Score by the mean absolute error, in tokens."""
        from utils.results.record import BestMetric, DataCounts
        from utils.tasks.outcome import Outcome, best_step, fill_costs, session_metrics

        evaluated = trainer.evaluate()
        error = evaluated["eval_loss"] ** 0.5 * self._config.section(ToySection).unit
        filled = replace(
            fill_costs(record, trainer, counts, measuring),
            status="success",
            metrics={"loss": evaluated["eval_loss"], "error_in_tokens": error},
            headline="error_in_tokens",
            best_metric=BestMetric("error_in_tokens", error, best_step(trainer)),
            data=DataCounts(len(data.train), len(data.validation), fingerprint=data.fingerprint),
        )
        return Outcome(filled, session_metrics(trainer), {"": evaluated}, ("error_in_tokens",))

    def open_probe(
        self, label_names: tuple[str, ...], run: Path | None, tokenizer: PreTrainedTokenizerBase, num_eval: int
    ) -> Probe:
        """Open the probe of the texts that the run saved."""
        from utils.tasks.probe import Probe, read_probes

        probes = read_probes(run, ("text",))
        rows = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in probes.rows]
        ask = _ask_for(Task.build_collator(tokenizer), rows)
        return Probe(
            rows=probes.source,
            num_rows=len(rows),
            scored="no rows are scored",
            num_scored=0,
            encode=lambda other: [other(row["text"])["input_ids"] for row in probes.rows],
            compute_logits=lambda model: ask(model).logits,
            answer=ask,
        )

    def choose_reload_rows(self, data: CountingData, tokenizer: PreTrainedTokenizerBase) -> Ask:
        """Choose the validation rows."""
        return _ask_for(Task.build_collator(tokenizer), [{"input_ids": ids} for ids in data.validation["input_ids"][:]])

    def _read_texts(self, split: str) -> list[str]:
        path = self._config.section(ClassificationSection).path
        lines = (Path(path or ".") / f"{split}.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines]


def _ask_for(collate: Callable[[list[dict[str, Any]]], Any], rows: list[dict[str, Any]]) -> Ask:
    def ask(model: PreTrainedModel) -> Any:
        import torch

        from utils.tasks.probe import Answers

        model.eval()
        with torch.no_grad():
            batch = {key: value.to(model.device) for key, value in collate(rows).items()}
            logits: np.ndarray[Any, Any] = model(**batch).logits.float().cpu().numpy()
        return Answers(logits)

    return ask
