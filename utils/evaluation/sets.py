"""Evaluation sets: prompts, references, and the protocol of answering and scoring."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import InstructionSection
from utils.config.sections.evaluation import EvaluationSection
from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError
from utils.core.texts import list_texts
from utils.data.dataset import Example, InstructionSet, describe_instructions, order_metrics
from utils.data.reading import DataProblems
from utils.data.report import MAX_ROWS, count_unwritable, show_characters
from utils.evaluation.describing import DescribedSet, ask_otherwise, describe_sets
from utils.evaluation.identity import hash_json
from utils.evaluation.prompts import (
    Asked,
    EncodedPrompts,
    PromptLimits,
    TokenRows,
    describe_prompt,
    encode_prompts,
)
from utils.evaluation.references import check_metrics, check_references, resolve_references
from utils.metrics.metric import Reference
from utils.metrics.pass_at_k import allow_code_execution

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from utils.data.encoding import ExampleEncoder
    from utils.data.splits import Splits

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationSet(Asked):
    """Prompts with their references, and how answers are generated and scored."""

    prompts: Sequence[list[int]]
    """Token ids of each prompt, without padding."""
    references: Sequence[Reference]
    """Reference of each answer."""
    ids: list[str]
    """Location of each row: a file's line, or a row of a split."""
    metrics: tuple[str, ...]
    """Metrics of generated texts, the headline first."""
    stop: tuple[str, ...]
    """Strings that end an answer."""
    seed: int = 0
    """Seed of the sampling if the temperature is above 0."""
    max_new_tokens: int | None = None
    """Maximum tokens of an answer; None: the run's."""
    min_new_tokens: int = 0
    """Minimum tokens of an answer."""
    greedy: bool = False
    """Whether decoding is greedy, whatever the run's temperature."""
    combined_metrics: tuple[str, ...] = ()
    """Metrics in the combined score of several sets; (): the headline."""
    own_prompt: bool = False
    """Whether the set's own prompt is used instead of the run's."""
    official_truncation: bool = False
    """Whether prompts are cut as in LongBench."""
    questions: list[str] = field(default_factory=list)
    """Question of each row, without a template; empty if there are none."""
    contexts: list[str] = field(default_factory=list)
    """Long text that each row asks about; empty if there is none."""
    num_answers: int = 1
    """Number of answers per row; a row has as many consecutive prompts."""
    groups: list[dict[str, str]] = field(default_factory=list)
    """Values of each row by kind of group scored separately; empty if there are none."""

    def needs_cutting(self, window: int | None, max_new_tokens: int) -> bool:
        """Return whether a prompt is longer than a model with this window can hold, or the set's protocol allows.

        `max_new_tokens` is the run's, used if the set has none of its own.
        """
        limits = PromptLimits(self.max_new_tokens or max_new_tokens, window, None, self.official_truncation)
        # Prompts already cut to a limit of the user's only need to fit.
        target = limits.available if self.prompt_limit is not None else limits.target
        return target is not None and max(map(len, self.prompts), default=0) > target


@dataclass(frozen=True)
class AnswerSettings:
    """Settings of the answers, as far as known when sets are loaded."""

    generation: GenerationSection = field(default_factory=GenerationSection)
    """The run's settings."""
    window: int | None = None
    """Tokens that the model can hold; None: unknown, and only evaluation.max_prompt_length cuts prompts."""
    own_prompts: bool = False
    """Whether every set uses its own prompt instead of the run's."""
    read: Splits | None = None
    """Rows of the run's own set, if already read."""


@dataclass(frozen=True)
class _Run:
    """Settings shared by all sets of a run."""

    own: InstructionSet
    encoder: ExampleEncoder
    seed: int
    evaluation: EvaluationSection
    answers: AnswerSettings


def load_evaluation_sets(
    evaluation: EvaluationSection,
    own: InstructionSet,
    own_section: InstructionSection,
    encoder: ExampleEncoder,
    seed: int,
    answers: AnswerSettings = AnswerSettings(),
) -> list[EvaluationSet]:
    """Load the configured sets.

    Each has the prompt of the run's `own` set, zero-shot, except those with their own prompt and protocol. Prompts that
    leave no space for an answer lose their middle, which is counted and reported. The seed chooses the rows of a
    held-out validation split.

    Raises:
        ConfigError: A set has no dataset plug-in, its settings are wrong, or its scorer is unavailable.
        DataError: Rows are unavailable, do not fit the run's prompt, or have no answer for a metric.
    """
    from utils.data.instruction import resolve_set

    if evaluation.prompt_template is not None:
        own_section = ask_otherwise(own_section, evaluation.prompt_template)
        own = describe_instructions(own_section)
    own = resolve_set(own)
    run = _Run(own, encoder, seed, evaluation, answers)
    found, sets = DataProblems(), []
    for each in describe_sets(evaluation, own, own_section):
        each = dataclasses.replace(each, is_own=True) if answers.own_prompts else each
        with found.gather():
            sets.append(_load(each, run))
    found.stop()
    return sets


def _load(described: DescribedSet, run: _Run) -> EvaluationSet:
    """Read a set's rows and encode their prompts."""
    from utils.data.instruction import load_generation_rows

    spec, label = described.spec, described.label
    rows = load_generation_rows(spec, described.section, run.seed, run.answers.read)
    if rows.bad.count:
        logger.warning("%s: %d rows cannot be read and are left out: %s", label, rows.bad.count, rows.bad.shown[0])
    if not rows.examples:
        raise DataError(f"{label}: there are no rows to evaluate on in {spec.path}")
    examples, places = rows.examples[: described.max_samples], list(rows.places[: described.max_samples])
    asked = _ask(described, run.own, examples, places)
    as_chat = run.encoder.as_chat and not spec.chat_exempt
    limits = _find_limits(described, run)
    prompts = encode_prompts(run.encoder, asked, places, limits, as_chat, described.section.on_bad_row == "drop")
    _warn_of_changes(label, prompts, limits)
    examples, asked = [examples[number] for number in prompts.kept], [asked[number] for number in prompts.kept]
    places = [places[number] for number in prompts.kept]
    _warn_of_unknown_characters(label, asked, run.encoder.tokenizer, as_chat)
    _check_settings(described, run)
    references = [example.reference for example in examples]
    metrics = order_metrics(spec.metrics, references)
    references, scorer = resolve_references(metrics, references, run.evaluation)
    check_references(label, metrics, references)
    num_answers = run.evaluation.num_return_sequences
    each_row = [row for row in range(len(places)) for _ in range(num_answers)]
    return EvaluationSet(
        label=label,
        prompts=prompts.rows if num_answers == 1 else TokenRows(prompts.rows[row] for row in each_row),
        references=[references[row] for row in each_row],
        ids=[places[row] for row in each_row],
        num_answers=num_answers,
        metrics=metrics,
        stop=spec.stop if described.is_own else run.own.stop,
        protocol=spec.protocol,
        num_total=rows.num_total,
        prompt_hash=_hash_prompts(asked, run.encoder, as_chat),
        fingerprint=rows.fingerprint,
        num_cut=prompts.num_cut,
        prompt_limit=limits.target if prompts.num_cut else None,
        seed=run.seed,
        max_new_tokens=described.max_new_tokens,
        min_new_tokens=spec.min_new_tokens,
        greedy=spec.greedy and num_answers == 1,
        combined_metrics=described.combined_metrics if spec.combined_metrics else metrics[:1],
        scorer=scorer,
        facts=rows.facts | _describe_prompt(spec, run.evaluation),
        own_prompt=spec.own_prompt,
        official_truncation=spec.official_truncation,
        questions=[examples[row].question for row in each_row],
        contexts=[examples[row].context for row in each_row],
        groups=[dict(examples[row].groups) for row in each_row],
        shots=spec.shots if described.is_own else 0,
    )


def _ask(
    described: DescribedSet, own: InstructionSet, examples: Sequence[Example], places: Sequence[str]
) -> list[Example]:
    """Put the questions of another dataset into the run's own prompt."""
    if described.is_own:
        return list(examples)
    if own.ask is None:
        raise DataError(
            f"evaluation.sets: {described.label}: the run's prompt is made of more than one text, so another set's "
            "questions cannot be put into it; set evaluation.prompt_template, or evaluate on sets of the run's own "
            "dataset"
        )
    for example, place in zip(examples, places, strict=True):
        if not example.question:
            raise DataError(f"{place}: has no single question for the run's prompt ({described.label})")
    return [own.ask(example.question) for example in examples]


def _check_settings(described: DescribedSet, run: _Run) -> None:
    """Check that the run's settings suit the set's metrics and protocol, and allow code that they run."""
    spec, evaluation, temperature = described.spec, run.evaluation, run.answers.generation.temperature
    check_metrics(described.label, spec.metrics, evaluation, temperature)
    if evaluation.allow_code_execution:
        allow_code_execution()
    said_before = run.answers.window is not None
    if spec.greedy and evaluation.num_return_sequences == 1 and temperature and not said_before:
        logger.warning("%s: its protocol is greedy; generation.temperature has no effect here", described.label)


def _describe_prompt(spec: InstructionSet, evaluation: EvaluationSection) -> dict[str, Any]:
    """Return the prompt if it differs from that of training."""
    own = spec.own_prompt or evaluation.prompt_template is None
    return {} if own else {"prompt_template": evaluation.prompt_template}


def _warn_of_changes(label: str, prompts: EncodedPrompts, limits: PromptLimits) -> None:
    """Warn of the number of prompts left out, and of those cut."""
    num_kept, refused = len(prompts.kept), prompts.refused
    if refused and not num_kept:
        raise DataError(f"{label}: none of {len(refused)} rows can be asked; {refused[0]}")
    if refused:
        logger.warning("%s: %d rows cannot be asked and are left out: %s", label, len(refused), refused[0])
    if prompts.num_cut:
        is_left = limits.target == limits.available
        left = (
            f", which max_new_tokens: {limits.max_new_tokens} leaves of the model's {limits.window}" if is_left else ""
        )
        logger.warning("%s: %d of %d prompts are longer than %d tokens%s; their middle was cut out",
                       label, prompts.num_cut, num_kept, limits.target, left)  # fmt: skip


def _warn_of_unknown_characters(
    label: str, asked: Sequence[Example], tokenizer: PreTrainedTokenizerBase, as_chat: bool
) -> None:
    """Warn of characters in prompts that the tokenizer does not know, which change the question."""
    texts = ("".join(list_texts(describe_prompt(each, as_chat))) for each in asked[:MAX_ROWS])
    if found := count_unwritable(texts, tokenizer, to_read=True):
        shown = show_characters(found)
        logger.warning("%s: the tokenizer does not know these characters of the prompts: %s", label, shown)


def _find_limits(described: DescribedSet, run: _Run) -> PromptLimits:
    return PromptLimits(
        max_new_tokens=described.max_new_tokens or run.answers.generation.max_new_tokens,
        window=run.answers.window,
        asked=run.evaluation.max_prompt_length,
        official=described.spec.official_truncation,
    )


def _hash_prompts(examples: list[Example], encoder: ExampleEncoder, as_chat: bool) -> str:
    """Hash the prompts as texts, so that models with different tokenizers can be compared."""
    return hash_json([[describe_prompt(each, as_chat) for each in examples], as_chat, encoder.system_prompt])
