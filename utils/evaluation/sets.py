"""Sets to evaluate on: whose rows, asked by the run's own prompt."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from utils.data.dataset import Example, InstructionSection, InstructionSet, is_local, open_dataset
from utils.data.texts import RowError
from utils.errors import ConfigError, DataError
from utils.evaluation.identity import hash_json
from utils.evaluation.section import EvaluationSection, SetSection, label_of
from utils.metrics.metric import load_metric
from utils.rooms import has_room, list_rooms, open_room, room_name

if TYPE_CHECKING:
    from utils.data.encoding import ExampleEncoder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSet:
    """Prompts with their references, and how answers are judged."""

    label: str
    """Names the result and its folder."""
    prompts: list[list[int]]
    """Token ids of each prompt, without padding."""
    references: list[str]
    """What each answer is compared with."""
    ids: list[str]
    """Place of each row: a file's line, or a row of a split."""
    metrics: tuple[str, ...]
    """Metrics of generated texts, the headline first."""
    stop: tuple[str, ...]
    """Texts that end an answer."""
    protocol: str
    """Names the way of prompting and scoring."""
    num_total: int
    """Rows that the split has; more than there are prompts: the result is partial."""
    prompt_hash: str
    """Hash of the prompts as texts."""
    fingerprint: str
    """Fingerprint of the rows."""
    num_cut: int = 0
    """Prompts whose middle was cut out."""
    seed: int = 0
    """Draws answers where the temperature is above 0."""


@dataclass(frozen=True)
class _Described:
    """A set before its rows are read."""

    label: str
    spec: InstructionSet
    section: InstructionSection
    is_own: bool
    """Whether its rows are prompted by its own room: it is the run's room too."""


@dataclass(frozen=True)
class _Limits:
    num_rows: int | None
    prompt_length: int | None


def load_evaluation_sets(
    evaluation: EvaluationSection,
    own: InstructionSet,
    own_section: InstructionSection,
    encoder: ExampleEncoder,
    seed: int,
    max_prompt_length: int | None = None,
) -> list[EvaluationSet]:
    """Load the sets that the configuration names, each prompted as the run's own set is, zero-shot.

    Args:
        evaluation: Which sets, and how many rows of each.
        own: The run's set, as its room describes it.
        own_section: The run's `dataset:` section.
        encoder: Makes token ids of prompts.
        seed: Decides which rows are held out where that is how a set gets its validation rows.
        max_prompt_length: Cut the middle out of longer prompts, which is counted and said; None: never.

    Raises:
        ConfigError: A set has no room, or its room cannot be set up.
        DataError: The rows cannot be had, cannot be asked by the run's prompt, or have no answer for a metric.
    """
    from utils.data.instruction import settle_set

    own = settle_set(own)
    if evaluation.set_sections is None:
        described = [_Described(label_of(_name_own(own_section)), own, own_section, True)]
    else:
        described = [_describe(section, own, own_section) for section in evaluation.set_sections]
    limits = _Limits(evaluation.max_samples, max_prompt_length)
    return [_load(each, own, encoder, seed, limits) for each in described]


def _name_own(section: InstructionSection) -> str:
    return section.path if section.name == "custom" and section.path else section.name


def _describe(section: SetSection, own: InstructionSet, own_section: InstructionSection) -> _Described:
    """Find a set's room and let it describe the rows; the run's own room keeps the run's settings."""
    room, path = _find_room(section, own_section)
    is_own = room == room_name(own_section.name)
    named = {"path": path, "subset": section.subset}
    given = {key: value for key, value in named.items() if value is not None}
    config = own_section.model_copy(update=given) if is_own else _build_config(room, section.name, given)
    moved = is_own and not given and section.split is None
    spec = own if moved else open_dataset(room).describe_instructions(config)
    split = section.split or ("train" if path and _is_file(path) else spec.generation_split)
    metrics = tuple(load_metric(name).name for name in section.metrics) if section.metrics else spec.metrics
    spec = dataclasses.replace(spec, generation_split=split, metrics=metrics)
    return _Described(section.shown_label, spec, config, is_own)


def _find_room(section: SetSection, own_section: InstructionSection) -> tuple[str, str | None]:
    """Find the room of a name, and the path that the name itself is when it is a hub id, folder or file."""
    name = section.name
    if has_room("data", name):
        return room_name(name), section.path
    for room in list_rooms("data"):
        if name.lower() in map(str.lower, getattr(open_room("data", room), "HUB_NAMES", ())):
            return room, section.path or name
    if "/" in name or is_local(name):
        # Rows of the run's own kind, most likely: a custom room would not know their columns.
        return room_name(own_section.name), section.path or name
    raise ConfigError(
        f"evaluation.sets: no dataset called {name}; use one of {', '.join(list_rooms('data'))}, or a path"
    )


def _build_config(room: str, name: str, given: dict[str, Any]) -> InstructionSection:
    kind = open_dataset(room).Config
    if not issubclass(kind, InstructionSection):
        raise ConfigError(f"evaluation.sets: {name} is for task_type: {' or '.join(kind.TASK_TYPES)}, not CAUSAL_LM")
    try:
        return kind(name=room, **given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"evaluation.sets: {name}: {where}: {first['msg']}") from error


def _is_file(path: str) -> bool:
    return is_local(path) and Path(path).expanduser().is_file()


def _load(
    described: _Described, own: InstructionSet, encoder: ExampleEncoder, seed: int, limits: _Limits
) -> EvaluationSet:
    """Read a set's rows and encode their prompts."""
    from utils.data.instruction import load_generation_rows

    spec, label = described.spec, described.label
    rows = load_generation_rows(spec, described.section, seed)
    if rows.bad.count:
        _log.warning("%s: %d rows cannot be read and are left out: %s", label, rows.bad.count, rows.bad.shown[0])
    if not rows.examples:
        raise DataError(f"{label}: there is no row to evaluate on in {spec.path}")
    examples, places = rows.examples[: limits.num_rows], list(rows.places[: limits.num_rows])
    asked = list(examples)
    if not described.is_own:
        asked = [_ask(own, example, place, label) for example, place in zip(examples, places, strict=True)]
    prompts, num_cut = _encode(encoder, asked, places, limits.prompt_length)
    if num_cut:
        _log.warning(
            "%s: %d of %d prompts are longer than %d tokens; their middle was cut out",
            label, num_cut, len(prompts), limits.prompt_length,
        )  # fmt: skip
    references = [example.reference for example in examples]
    _check_references(label, spec.metrics, references)
    return EvaluationSet(
        label=label,
        prompts=prompts,
        references=references,
        ids=places,
        metrics=spec.metrics,
        stop=own.stop,
        protocol=spec.protocol,
        num_total=rows.num_total,
        prompt_hash=_hash_prompts(asked, encoder),
        fingerprint=rows.fingerprint,
        num_cut=num_cut,
        seed=seed,
    )


def _ask(own: InstructionSet, example: Example, place: str, label: str) -> Example:
    """Put another room's question into the run's own prompt."""
    if own.ask is None:
        raise DataError(
            f"evaluation.sets: {label}: the run's prompt is made of more than one text, so another set's questions "
            "cannot be put into it; evaluate on sets of the run's own room"
        )
    if not example.question:
        raise DataError(f"{place}: has no single question that the run's prompt could be made of ({label})")
    return own.ask(example.question)


def _encode(
    encoder: ExampleEncoder, examples: list[Example], places: list[str], limit: int | None
) -> tuple[list[list[int]], int]:
    """Encode prompts and count those that had to be cut."""
    prompts = []
    num_cut = 0
    for example, place in zip(examples, places, strict=True):
        try:
            ids = encoder.encode_prompt(example)
            if limit is not None and len(ids) > limit:
                ids, num_cut = encoder.encode_prompt(example, limit), num_cut + 1
        except RowError as error:
            raise DataError(f"{place}: {error}") from error
        prompts.append(ids)
    return prompts, num_cut


def _check_references(label: str, metrics: tuple[str, ...], references: list[str]) -> None:
    """See to it, before anything is written, that each metric has something to compare with."""
    import numpy as np

    for metric in map(load_metric, metrics):
        assert metric.score_rows is not None, f"got the metric {metric.name} of {metric.kind}"
        num_undefined = int(np.isnan(metric.score_rows([""] * len(references), references)).sum())
        if references and num_undefined == len(references):
            raise DataError(
                f"{label}: no reference has an answer for the metric {metric.name}; choose other metrics for this set"
            )
        if num_undefined:
            _log.warning(
                "%s: %d of %d references have no answer for %s; it is the mean over the others",
                label, num_undefined, len(references), metric.name,
            )  # fmt: skip


def _hash_prompts(examples: list[Example], encoder: ExampleEncoder) -> str:
    """Hash what is asked, as texts, so that models with different tokenizers can be compared."""
    texts = [_asked_text(example, encoder.as_chat) for example in examples]
    return hash_json([texts, encoder.as_chat, encoder.system_prompt])


def _asked_text(example: Example, as_chat: bool) -> Any:
    if example.messages:
        turns = list(example.messages)
        return turns[:-1] if turns[-1]["role"] == "assistant" else turns
    return example.user_turn or example.prompt if as_chat else example.prompt
