"""The probe of a classifier: logits of the probe rows in padded batches, and metrics on validation rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.errors import UserError
from utils.data.dataset import load_dataset_plugin, spread
from utils.data.tokenizing import encode_texts
from utils.metrics.metric import compute_metrics
from utils.tasks.probe import Answers, explain_damaged_rows, read_probes
from utils.tasks.task import open_task

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig

logger = logging.getLogger(__name__)

_BATCH = 16
_BATCH_TOKENS = 8192  # padded: long documents go one or two at a time

_Inputs = list[dict[str, list[int]]]


class ClassifierProbe:
    """See Probe; scored on rows of the run's validation split, else on the probe rows' own labels.

    Args:
        config: Of the model's run.
        label_names: Of its head.
        run: The run's folder; None: it was trained elsewhere.
        tokenizer: Its own.
        num_eval: Rows to score on, at most; 0: no score.
    """

    def __init__(
        self,
        config: RunConfig,
        label_names: tuple[str, ...],
        run: Path | None,
        tokenizer: PreTrainedTokenizerBase,
        num_eval: int,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._names = label_names
        spec = load_dataset_plugin(self._config.dataset.name).describe_classification(self._config.dataset)
        self._metrics = spec.metrics
        self._probes = read_probes(run, spec.text_columns)
        self._inputs = self._encode(tokenizer)
        self._eval_inputs, self._labels, self.scored = self._find_scored(num_eval)
        self.rows, self.num_rows, self.num_scored = self._probes.source, len(self._inputs), len(self._labels)

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Give the probe rows' tokens."""
        return [row["input_ids"] for row in self._encode(tokenizer)]

    def compute_logits(self, model: PreTrainedModel) -> np.ndarray[Any, Any]:
        """Give the logits of the probe rows."""
        return self._run(model, self._inputs)

    def answer(self, model: PreTrainedModel) -> Answers:
        """Give logits and metrics."""
        logits = self.compute_logits(model)
        if not self._labels:
            return Answers(logits, None)
        found, num_labels = self._run(model, self._eval_inputs), max(1, len(self._names))
        predicted = found.reshape(-1) if num_labels == 1 else found.argmax(axis=-1)
        return Answers(logits, compute_metrics(self._metrics, predicted, self._labels, num_labels, quiet=True))

    def _encode(self, tokenizer: PreTrainedTokenizerBase) -> _Inputs:
        columns = [key for key in self._probes.rows[0] if key != "labels"]
        with explain_damaged_rows(self._probes.source):
            texts = [[str(row[column]) for row in self._probes.rows] for column in columns]
        encoded, _ = encode_texts(texts, tokenizer, self._config.max_length)
        return [{key: encoded[key][row] for key in encoded} for row in range(len(self._probes.rows))]

    def _find_scored(self, num_eval: int) -> tuple[_Inputs, list[Any], str]:
        """Find labelled rows: of the validation split where the set is at hand, else the probe rows."""
        if not num_eval:
            return [], [], "no score was asked for"
        try:
            data = open_task(self._config).prepare_data(self._tokenizer)
        except UserError as error:
            logger.warning("the set's validation rows are not at hand (%s)", error)
            data = None
        if data is not None and "" in data.evals and data.label_names == self._names:
            rows = spread(data.evals[""].dataset, num_eval)
            return rows, [row["labels"] for row in rows], "validation rows"
        if all("labels" in row for row in self._probes.rows):
            return self._inputs, [row["labels"] for row in self._probes.rows], f"the rows of {self._probes.source}"
        return [], [], "no labelled rows are at hand"

    def _run(self, model: PreTrainedModel, rows: _Inputs) -> np.ndarray[Any, Any]:
        """Run rows in batches of like length, padded: whether the model knows its padding is a part of the proof."""
        import numpy as np
        import torch

        wanted = _input_names(model)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
        found: list[Any] = [None] * len(rows)
        model.eval()
        with torch.inference_mode():
            for batch in _cut_batches(order, rows):
                kept = [{key: rows[row][key] for key in rows[row] if key in wanted} for row in batch]
                inputs = self._tokenizer.pad(kept, return_tensors="pt").to(model.device)
                for row, logits in zip(batch, model(**inputs).logits.float().cpu().numpy(), strict=True):
                    found[row] = logits
        stacked: np.ndarray[Any, Any] = np.stack(found)
        return stacked


def _cut_batches(order: list[int], rows: _Inputs) -> Iterator[list[int]]:
    """Cut rows of rising length into batches."""
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) == _BATCH or (len(batch) + 1) * len(rows[row]["input_ids"]) > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _input_names(model: PreTrainedModel) -> frozenset[str]:
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(signature(plain.forward).parameters) - {"labels"}
