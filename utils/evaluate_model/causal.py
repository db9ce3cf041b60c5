"""Evaluate a language model by its generated answers, and report rows it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import UserError
from utils.data.instruction import read_training_rows
from utils.evaluate_model.folders import (
    Earlier,
    Entry,
    log_difference,
    log_reused,
    open_result_folder,
    write_facts,
)
from utils.evaluation.contamination import find_leakage
from utils.evaluation.evaluator import build_identity, evaluate_set
from utils.evaluation.score import comparable
from utils.evaluation.sets import AnswerSettings, EvaluationSet, load_evaluation_sets
from utils.generation.model_state import find_window, place_model
from utils.tasks.sft.section import build_encoder
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.sections.generation import GenerationSection
    from utils.evaluate_model.evaluated_model import EvaluatedModel, Job
    from utils.generation.server import ServedModel


logger = logging.getLogger(__name__)

_SHOWN = 1000  # characters of the first prompt

Leakage = dict[str, list[dict[str, Any]] | None]
"""By label: a set's overlap with the training rows, each with set, rows and documents; None: not checked."""


@dataclass(frozen=True)
class _Asked:
    """One set, and the settings of its answers."""

    known: EvaluationSet
    generation: GenerationSection
    stop_token_ids: tuple[int, ...]


def evaluate_language_model(evaluated: EvaluatedModel) -> list[Entry]:
    """Generate answers to the model's sets, and score them."""
    tokenizer = evaluated.model.load_tokenizer()
    asked = [each for job in evaluated.jobs for each in _load_sets(job, tokenizer)]
    leakage = _find_run_leakage(evaluated, [each.known for each in asked])
    model: Any = evaluated.served or place_model(evaluated.load_model(tokenizer, None))
    # The model's window is known only now: sets that need cutting are encoded again.
    window = find_window(model)
    if any(each.known.needs_cutting(window, each.generation.max_new_tokens) for each in asked):
        asked = [each for job in evaluated.jobs for each in _load_sets(job, tokenizer, window)]
    for each in asked:
        _announce(each.known, tokenizer)
    return [_evaluate(evaluated, model, tokenizer, each, leakage) for each in asked]


def _announce(known: EvaluationSet, tokenizer: PreTrainedTokenizerBase) -> None:
    """Log what will be scored: the number of rows, the metrics, and the first prompt."""
    prompt = tokenizer.decode(known.prompts[0])
    shown = prompt if len(prompt) <= _SHOWN else f"{prompt[: _SHOWN // 2]} [...] {prompt[-_SHOWN // 2 :]}"
    logger.info(
        "%s: %d of %d rows, scored by %s (%s); the first prompt:\n  %s", known.label, len(known.prompts),
        known.num_total, ", ".join(known.metrics), known.protocol, shown.replace("\n", "\n  "),
    )  # fmt: skip


def _load_sets(job: Job, tokenizer: PreTrainedTokenizerBase, window: int | None = None) -> list[_Asked]:
    config: Any = job.config
    section, encoder = config.section(InstructionSection), build_encoder(config, tokenizer)
    evaluation = config.evaluation.model_copy(update={"allow_code_execution": job.may_run_code})
    if job.sections is not None:
        limits = [each.max_samples or job.max_eval_samples for each in job.sections]
        limited = [
            each.model_copy(update={"max_samples": most}) for each, most in zip(job.sections, limits, strict=True)
        ]
        evaluation = evaluation.model_copy(update={"sets": limited})
    own = load_task(config.task).describe_rows(config)
    answers = AnswerSettings(config.generation, window)
    sets = load_evaluation_sets(evaluation, own, section, encoder, config.seed, answers)
    return [_Asked(each, config.generation, encoder.stop_token_ids) for each in sets]


def _evaluate(
    evaluated: EvaluatedModel,
    model: PreTrainedModel | ServedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: _Asked,
    leakage: Leakage,
) -> Entry:
    started = datetime.now(timezone.utc)
    known, folder = asked.known, evaluated.folder_of(asked.known.label)
    identity = build_identity(model, known, asked.generation, asked.stop_token_ids)
    earlier = open_result_folder(folder, identity)
    reused = earlier.same is not None and list(earlier.same["metrics"]) == list(known.metrics)
    if reused:
        log_reused(folder)
    else:  # continues after existing answers
        evaluate_set(model, tokenizer, known, asked.generation, folder, asked.stop_token_ids)
    more = {"leakage": leakage[known.label]} if known.label in leakage else {}
    result = write_facts(folder, evaluated, earlier, started, more)
    shown = tuple(result["metrics"])
    difference = None if reused else _compare(evaluated, result, shown[0], earlier)
    return Entry(known.label, folder, result, shown, reused, difference)


def _compare(evaluated: EvaluatedModel, result: Mapping[str, Any], headline: str, earlier: Earlier) -> float | None:
    """Compare a score with the run's own of the same set, else with the one that was set aside."""
    own = evaluated.record.evaluation.get(result["label"]) if evaluated.record else None
    reference, whose = (own, "the run's own record") if own else (earlier.other, "the earlier result")
    if reference is None:
        return None
    value = reference.get("metrics", reference).get(headline)
    return log_difference(result, headline, value, whose, comparable(result, reference))


def _find_run_leakage(evaluated: EvaluatedModel, sets: Sequence[EvaluationSet]) -> Leakage:
    """Compare a run's training rows with the sets that have their own prompt; warn of overlap.

    A score on training rows measures memory. Returns nothing for sets with the run's prompt, for plain models, which
    have no rows to compare with, and for runs that only evaluated.
    """
    asked = [each for each in sets if each.own_prompt]
    config = evaluated.trained_config
    if not asked or config is None or not config.arguments.get("do_train", True):
        return {}
    section: Any = config.dataset
    try:
        spec = load_task(config.task).describe_rows(config)
        rows, fingerprint = read_training_rows(spec, section, config.seed)
        recorded = evaluated.record.data.fingerprint if evaluated.record else None
        if recorded not in (None, fingerprint):
            return _warn_unchecked(asked, f"{spec.path}: the rows are no longer those that the run was trained on")
        found = {leak.label: leak.describe() for leak in find_leakage(rows, asked)}
    except UserError as error:
        return _warn_unchecked(asked, str(error))
    for each in asked:
        if leak := found.get(each.label):
            logger.warning(
                "%s: the run was trained on %d of its %d rows, and on the documents of %d others: the score measures "
                "memory", each.label, leak["rows"], len(each.references), leak["documents"],
            )  # fmt: skip
    return {each.label: [found[each.label]] if each.label in found else [] for each in asked}


def _warn_unchecked(sets: Sequence[EvaluationSet], reason: str) -> Leakage:
    labels = [each.label for each in sets]
    logger.warning("%s: not checked whether the run was trained on these rows: %s", ", ".join(labels), reason)
    return dict.fromkeys(labels)
