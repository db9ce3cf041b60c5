"""Measure forgetting: score the base and the tuned model on sets and held-out texts, row by row."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.config.sections.dataset import InstructionSection
from utils.config.sections.evaluation import SetSection
from utils.core.errors import LoraNsError
from utils.data.dataset import describe_instructions
from utils.data.instruction import resolve_set
from utils.evaluation.evaluator import evaluate_set
from utils.evaluation.files import PREDICTIONS, RESULTS, Record, read_object, scan_records
from utils.evaluation.held_text import score_held_text
from utils.evaluation.processes import FAILURES, describe_failure, run_on_first
from utils.evaluation.sets import AnswerSettings, load_evaluation_sets
from utils.generation.model_state import find_window, keep_random_state
from utils.metrics.bootstrap import bootstrap_difference
from utils.tasks.sft.section import build_encoder
from utils.trainer.varlen_attention import plain_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.metrics.metric import Array
    from utils.trainer.base import LoraNsTrainer

BASE, TUNED = "base", "tuned"

logger = logging.getLogger(__name__)

Compared = dict[str, dict[str, Any]]
"""By label: `n`, and under `metrics` by metric base, tuned, their difference and interval; or `error`, the reason."""


class Retention:
    """The sets under `evaluation.retention` of one run, each with its own prompt."""

    def __init__(self, settings: RunConfig) -> None:
        self._settings = settings
        self._sections = settings.evaluation.retention_sections
        self._root = Path(settings.training.output_dir).expanduser() / "retention"

    def score_base(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Score the base before an adapter is attached, in the precision of training; the model is left unchanged."""
        import torch

        if not self._sections:
            return
        arguments, device = self._settings.arguments, model.device.type
        moves = torch.cuda.is_available() and device == "cpu" and not getattr(model, "hf_device_map", None)
        placed: Any = model.to("cuda") if moves else model
        dtype = torch.bfloat16 if arguments.get("bf16") else torch.float16 if arguments.get("fp16") else None
        with keep_random_state(), torch.autocast(placed.device.type, dtype, enabled=dtype is not None):
            self.score(placed, tokenizer, BASE)
        if moves:
            placed.to("cpu")

    def score(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, which: str) -> None:
        """Score the base or the tuned model; a failure is a warning, and the run continues."""
        for each in self._sections:
            try:
                self._score_set(each, model, tokenizer, self._root / which)
            except FAILURES as error:
                logger.warning("evaluation.retention: %s: no score of the %s model: %s", each.resolved_label, which,
                               describe_failure(error), exc_info=not isinstance(error, LoraNsError))  # fmt: skip

    def _score_set(
        self, asked: SetSection, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, root: Path
    ) -> None:
        settings = self._settings
        evaluation = settings.evaluation
        if (file := asked.text_file) is not None:
            most = asked.max_samples or evaluation.max_samples
            folder = root / asked.resolved_label
            run_on_first(lambda: score_held_text(model, tokenizer, Path(file), folder, most))
            return
        section = settings.section(InstructionSection)
        own = resolve_set(describe_instructions(section))
        encoder = build_encoder(settings, tokenizer)
        answers = AnswerSettings(settings.generation, find_window(model), own_prompts=True)
        named = evaluation.model_copy(update={"sets": [asked]})
        for known in load_evaluation_sets(named, own, section, encoder, settings.seed, answers):
            evaluate_set(model, tokenizer, known, settings.generation, root / known.label, encoder.stop_token_ids)

    def compare(self) -> Compared:
        """Compare the scores of base and tuned model, on all processes."""
        return run_on_first(self._compare)

    def _compare(self) -> Compared:
        labels = dict.fromkeys(each.name for which in (BASE, TUNED) for each in sorted(self._root.glob(f"{which}/*")))
        return {label: _compare_rows(self._root / BASE / label, self._root / TUNED / label) for label in labels}


def find_retention(trainer: LoraNsTrainer, tokenizer: PreTrainedTokenizerBase, settings: RunConfig) -> Compared:
    """Score the kept weights on the retention sets, and compare them with the base."""
    if not settings.evaluation.retention or not settings.arguments.get("do_train", True):
        return {}
    retention, model = Retention(settings), trainer.accelerator.unwrap_model(trainer.model)
    with keep_random_state(), plain_attention(model), trainer.compute_loss_context_manager():
        retention.score(model, tokenizer, TUNED)
    return retention.compare()


def _compare_rows(base: Path, tuned: Path) -> dict[str, Any]:
    before, after = read_object(base / RESULTS), read_object(tuned / RESULTS)
    if before is None or after is None:
        return {"error": f"the {BASE if before is None else TUNED} model has no score"}
    rows = [[record for _, record in scan_records(each / PREDICTIONS)] for each in (base, tuned)]
    if len(rows[0]) != len(rows[1]):
        return {"error": f"the base was scored on {len(rows[0])} rows, the tuned model on {len(rows[1])}"}
    metrics = {}
    for name, score in after["metrics"].items():
        if (own := before["metrics"].get(name)) is not None:
            interval = list(_find_interval(name, *rows))
            metrics[name] = {BASE: own, TUNED: score, "difference": score - own, "interval": interval}
    return {"n": after["n"], "protocol": after["protocol"], "metrics": metrics}


def _find_interval(metric: str, base: Sequence[Record], tuned: Sequence[Record]) -> tuple[float, float]:
    """Compute the interval of the difference by a paired bootstrap over rows."""
    if "nll" in base[0]:
        sums = [np.array([each["nll"] for each in rows]) for rows in (base, tuned)]
        return bootstrap_difference(*sums, weights=np.array([each["num_tokens"] for each in base]), of=np.exp)
    return bootstrap_difference(*(_read_scores(rows, metric) for rows in (base, tuned)))


def _read_scores(rows: Sequence[Mapping[str, Any]], metric: str) -> Array:
    return np.array([np.nan if (value := each["scores"][metric]) is None else value for each in rows])
