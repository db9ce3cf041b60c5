"""The probe of a classifier: logits of the probe rows in padded batches, and metrics on validation rows."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.sections.evaluation import EVALUATE_PREFIX
from utils.core.errors import UserError
from utils.data.dataset import describe_classification, sample_evenly
from utils.data.tokenizing import encode_texts
from utils.generation.batching import Batching
from utils.generation.classification import input_names
from utils.metrics.scoring import compute_metrics
from utils.tasks.probe import Answers, Ask, Probe, Probes, explain_damaged_rows, read_probes
from utils.tasks.task import open_task

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.data.classification import ClassificationData

logger = logging.getLogger(__name__)

NUM_RELOAD_ROWS = 256
_BATCHING = Batching(max_tokens=8192, max_rows=16)  # long documents go one or two at a time

_Inputs = list[dict[str, list[int]]]


def open_probe(
    config: RunConfig, label_names: tuple[str, ...], run: Path | None, tokenizer: PreTrainedTokenizerBase, num_eval: int
) -> Probe:
    """Open the probe, scored on rows of the run's validation split, else on the probe rows' own labels.

    `run` is None for a model trained elsewhere; at most `num_eval` rows are scored, 0 for none.
    """
    spec = describe_classification(config.dataset)
    probes = read_probes(run, spec.text_columns)
    encode = _encoder_of(probes, config.max_length)
    inputs = encode(tokenizer)
    scored_inputs, labels, scored = (
        _read_validation_rows(config, tokenizer, label_names, num_eval) or _find_labels(probes, inputs)
        if num_eval
        else ([], [], "no score was asked for")
    )

    def compute_logits(model: PreTrainedModel) -> np.ndarray[Any, Any]:
        return run_rows(model, inputs, tokenizer)

    def answer(model: PreTrainedModel) -> Answers:
        logits = compute_logits(model)
        if not labels:
            return Answers(logits)
        return Answers(logits, _score(run_rows(model, scored_inputs, tokenizer), labels, spec.metrics))

    return Probe(
        rows=probes.source,
        num_rows=len(inputs),
        scored=scored,
        num_scored=len(labels),
        encode=lambda other: [row["input_ids"] for row in encode(other)],
        compute_logits=compute_logits,
        answer=answer,
    )


def draw_reload_rows(data: ClassificationData, tokenizer: PreTrainedTokenizerBase, seed: int) -> Ask | None:
    """Draw validation rows by a seed for comparing logits and metrics; None without validation rows."""
    if "" not in data.evals:
        return None
    split = data.evals[""].dataset
    count = min(NUM_RELOAD_ROWS, len(split))
    chosen = sorted(random.Random(seed).sample(range(len(split)), count))  # noqa: S311  not used for security
    rows = split.select(chosen).to_list()
    labels = [row["labels"] for row in rows]

    def ask(model: PreTrainedModel) -> Answers:
        logits = run_rows(model, rows, tokenizer)
        return Answers(logits, _score(logits, labels, data.spec.metrics))

    return ask


def _encoder_of(probes: Probes, max_length: int) -> Callable[[PreTrainedTokenizerBase], _Inputs]:
    columns = [key for key in probes.rows[0] if key != "labels"]
    with explain_damaged_rows(probes.source):
        texts = [[str(row[column]) for row in probes.rows] for column in columns]

    def encode(tokenizer: PreTrainedTokenizerBase) -> _Inputs:
        encoded, _ = encode_texts(texts, tokenizer, max_length)
        return [{key: encoded[key][row] for key in encoded} for row in range(len(probes.rows))]

    return encode


def _read_validation_rows(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, label_names: tuple[str, ...], count: int
) -> tuple[_Inputs, list[Any], str] | None:
    """Read labelled rows of the validation split; None if the dataset is unavailable or has other classes."""
    try:
        data = open_task(config).prepare_data(tokenizer)
    except UserError as error:
        logger.warning("the validation rows are not available (%s)", error)
        return None
    if "" not in data.evals or data.label_names != label_names:
        return None
    rows = sample_evenly(data.evals[""].dataset, count)
    return rows, [row["labels"] for row in rows], "validation rows"


def _find_labels(probes: Probes, inputs: _Inputs) -> tuple[_Inputs, list[Any], str]:
    if all("labels" in row for row in probes.rows):
        return inputs, [row["labels"] for row in probes.rows], f"the rows of {probes.source}"
    return [], [], "no labelled rows are available"


def _score(logits: np.ndarray[Any, Any], labels: list[Any], metrics: tuple[str, ...]) -> dict[str, float]:
    num_labels = logits.shape[-1]
    predicted = logits.reshape(-1) if num_labels == 1 else logits.argmax(axis=-1)
    metrics = tuple(name for name in metrics if not name.startswith(EVALUATE_PREFIX))  # no scripts in a check
    return compute_metrics(metrics, predicted, labels, num_labels, quiet=True)


def run_rows(model: PreTrainedModel, rows: _Inputs, tokenizer: PreTrainedTokenizerBase) -> np.ndarray[Any, Any]:
    """Return the rows' logits, from padded batches of similar lengths: the check covers the model's padding."""
    import numpy as np
    import torch

    wanted = input_names(getattr(model, "module", model)) - {"labels"}  # of the model inside FSDP's wrapper
    found: list[Any] = [None] * len(rows)
    model.eval()
    with torch.no_grad():
        for batch in _BATCHING.plan([len(row["input_ids"]) for row in rows]):
            kept = [{key: rows[row][key] for key in rows[row] if key in wanted} for row in batch]
            inputs = tokenizer.pad(kept, return_tensors="pt").to(model.device)
            for row, logits in zip(batch, model(**inputs).logits.float().cpu().numpy(), strict=True):
                found[row] = logits
    stacked: np.ndarray[Any, Any] = np.stack(found)
    return stacked
