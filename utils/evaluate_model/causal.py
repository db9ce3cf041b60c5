"""Evaluates a language model by what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import InstructionSection
from utils.data.dataset import load_dataset_plugin
from utils.data.encoding import ExampleEncoder
from utils.evaluate_model.contamination import Leakage, find_run_leakage
from utils.evaluate_model.folders import (
    Earlier,
    Entry,
    open_result_folder,
    tell_difference,
    tell_incomparable,
    tell_reused,
    write_facts,
)
from utils.evaluation.evaluator import build_identity, evaluate_set
from utils.evaluation.score import comparable
from utils.evaluation.sets import Answers, EvaluationSet, load_evaluation_sets
from utils.generation.model_state import place_model
from utils.modeling.sizes import count_text_positions
from utils.tasks.sft.section import OwnSftSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.sections.generation import GenerationSection
    from utils.evaluate_model.model_refs import Job, ModelRef


@dataclass(frozen=True)
class _Asked:
    """One set, and how answers to it are written."""

    known: EvaluationSet
    generation: GenerationSection
    stop_token_ids: tuple[int, ...]


def evaluate_language_model(subject: ModelRef) -> list[Entry]:
    """Let the model answer its sets, and score the answers.

    Raises:
        DataError: The rows cannot be had, or cannot be asked by the model's prompt.
        ModelError: The model cannot be had.
    """
    tokenizer = subject.load_tokenizer()
    asked = [each for job in subject.jobs for each in _load_sets(job, tokenizer)]
    leakage = find_run_leakage(subject, [each.known for each in asked])
    model = place_model(subject.load_model(tokenizer, None))
    window = count_text_positions(model)
    if any(each.known.needs_cutting(window, each.generation.max_new_tokens) for each in asked):
        asked = [each for job in subject.jobs for each in _load_sets(job, tokenizer, window)]
    return [_evaluate(subject, model, tokenizer, each, leakage) for each in asked]


def _load_sets(job: Job, tokenizer: PreTrainedTokenizerBase, window: int | None = None) -> list[_Asked]:
    config: Any = job.config
    section, sft = config.section(InstructionSection), config.section(OwnSftSection)
    encoder = ExampleEncoder.build(tokenizer, section, sft.max_length, not sft.completion_only_loss)
    evaluation = config.evaluation
    if job.sections is not None:
        limits = [each.max_samples or job.max_eval_samples for each in job.sections]
        limited = [
            each.model_copy(update={"max_samples": most}) for each, most in zip(job.sections, limits, strict=True)
        ]
        evaluation = evaluation.model_copy(update={"sets": limited})
    own = load_dataset_plugin(section.name).describe_instructions(section)
    answers = Answers(config.generation, window)
    sets = load_evaluation_sets(evaluation, own, section, encoder, config.seed, answers)
    return [_Asked(each, config.generation, encoder.stop_token_ids) for each in sets]


def _evaluate(
    subject: ModelRef, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: _Asked, leakage: Leakage
) -> Entry:
    started = datetime.now(timezone.utc)
    known, folder = asked.known, subject.folder_of(asked.known.label)
    identity = build_identity(model, known, asked.generation, asked.stop_token_ids)
    earlier = open_result_folder(folder, identity)
    reused = earlier.same is not None and list(earlier.same["metrics"]) == list(known.metrics)
    if reused:
        tell_reused(folder)
    else:  # goes on behind answers that are there already
        evaluate_set(model, tokenizer, known, asked.generation, folder, asked.stop_token_ids)
    more = {"leakage": leakage[known.label]} if known.label in leakage else {}
    result = write_facts(folder, subject, earlier, started, more)
    shown = tuple(result["metrics"])
    difference = None if reused else _compare(subject, result, shown[0], earlier)
    return Entry(known.label, folder, result, shown, reused, difference)


def _compare(subject: ModelRef, result: Mapping[str, Any], headline: str, earlier: Earlier) -> float | None:
    """Set a score against the run's own of the same set, else against the one that was set aside."""
    label = result["label"]
    own = subject.record.evaluation.get(label) if subject.record else None
    reference, whose = (own, "the run's own record") if own else (earlier.other, "the earlier result")
    if reference is None:
        return None
    if reason := comparable(result, reference):
        tell_incomparable(label, whose, reason)
        return None
    value = reference.get("metrics", reference).get(headline)
    return None if value is None else tell_difference(label, headline, result["metrics"][headline], value, whose)
