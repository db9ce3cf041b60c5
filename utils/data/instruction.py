"""Prepares a dataset for CAUSAL_LM: splits, tokens with labels and a report; and loads rows to be answered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import DataError
from utils.data.dataset import Example, InstructionSet
from utils.data.encoded_rows import EncodingCounts, encode_rows
from utils.data.encoding import ExampleEncoder
from utils.data.reading import BadRows, DataProblems, ReadSplit, read_split
from utils.data.report import MAX_ROWS, InstructionReport, count_unwritable
from utils.data.splits import Splits, count_shared, draw_rows, load_splits, open_split, open_train

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class InstructionData:
    """The prepared data of a run."""

    spec: InstructionSet
    train: Dataset
    """Rows with input_ids, labels (-100 for tokens that are not trained on) and length, in the order of the file."""
    evals: dict[str, Dataset]
    """Validation rows in the same form under `""`, sorted by length; empty if there are none."""
    validation_examples: list[Example]
    """The validation rows as texts, in the order of the file, unlike `evals`."""
    validation_places: list[str]
    """Location of each validation row."""
    fingerprint: str
    commit: str | None
    read_train: Callable[[], Iterator[Example]]
    """Reads all training rows again as texts, including those that dataset.max_train_samples leaves out."""
    reports: dict[str, InstructionReport] = field(default_factory=dict)
    splits: Splits | None = None
    """The rows as read, to avoid reading them twice."""


@dataclass(frozen=True)
class GenerationRows:
    """The rows whose prompts are answered in an evaluation."""

    examples: list[Example]
    places: list[str]
    """Location of each row."""
    num_total: int
    """Total number of rows, including those that dataset.max_eval_samples leaves out."""
    fingerprint: str
    split: str
    """Their split; `validation` also for rows held out of the training rows."""
    bad: BadRows
    """Rows left out because they cannot be read."""
    ids: list[str] = field(default_factory=list)
    """The rows' own names; empty if they have none."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Other properties that affect a score, reported by the dataset."""


def resolve_set(spec: InstructionSet) -> InstructionSet:
    """Complete a dataset's description from the columns of its rows, if it left that open."""
    if spec.resolve is None:
        return spec
    for split in (spec.train_split, spec.generation_split, spec.validation_split):
        rows = open_split(spec, split) if split is not None else None
        if rows is not None:
            return spec.resolve(spec, rows.column_names())
    return spec.resolve(spec, open_train(spec).column_names())  # raises an error that there are no rows


def prepare_instructions(
    spec: InstructionSet, section: InstructionSection, encoder: ExampleEncoder, seed: int
) -> InstructionData:
    """Load, check and encode a dataset.

    The seed draws the held-out rows and, independently, max_train_samples.
    """
    spec, splits, wanted, chosen = _choose_rows(spec, section, seed)
    found = DataProblems()
    encoded = {}
    for name, split, positions in (("train", splits.train, wanted), ("validation", splits.validation, chosen)):
        with found.gather():
            if split is not None:
                encoded[name] = _encode(name, split, positions, encoder, section)
    found.stop()
    reports = {name: report for name, (_, report, _) in encoded.items()}
    _report_use_of_rows(reports, splits, wanted, chosen)
    shown = splits.train.examples(wanted[:MAX_ROWS])
    reports["train"].unwritable = count_unwritable((each.whole_text for each in shown), encoder.tokenizer)
    for report in reports.values():
        report.log()
    evals, validation, places = {}, [], []
    if splits.validation is not None:
        rows, _, refused = encoded["validation"]
        lengths = rows["length"][:]
        evals[""] = rows.select(sorted(range(len(rows)), key=lengths.__getitem__))
        asked = [position for position in chosen if position not in refused]
        validation = list(splits.validation.examples(asked))
        places = [splits.validation.place(position) for position in asked]
    return InstructionData(
        spec=spec,
        train=encoded["train"][0],
        evals=evals,
        validation_examples=validation,
        validation_places=places,
        fingerprint=_fingerprint(splits, wanted, chosen),
        commit=splits.train.rows.commit,
        read_train=lambda: splits.train.examples(splits.train_positions),
        reports=reports,
        splits=splits,
    )


def read_training_rows(spec: InstructionSet, section: InstructionSection, seed: int) -> tuple[Iterator[Example], str]:
    """Read the rows that a run was trained on again as texts, with the fingerprint of its InstructionData."""
    _, splits, wanted, chosen = _choose_rows(spec, section, seed)
    return splits.train.examples(wanted), _fingerprint(splits, wanted, chosen)


def load_generation_rows(
    spec: InstructionSet, section: InstructionSection, seed: int, read: Splits | None = None
) -> GenerationRows:
    """Load the rows to answer in an evaluation: a separate split, or the validation rows.

    max_eval_samples takes the first rows; given the run's seed, the same rows are held out as in training. Splits
    already `read` are reused if they are of the same set.
    """
    spec = resolve_set(spec)
    if spec.generation_split is not None:
        rows = open_split(spec, spec.generation_split)
        if rows is None:
            raise DataError(f"{spec.path}: no split called {spec.generation_split}, whose prompts are to be answered")
        split = read_split(spec.generation_split, rows, spec, section.on_bad_row)
        positions = list(range(len(split.good)))
    else:
        splits = read if read is not None and read.train.spec is spec else load_splits(spec, section, seed)
        if splits.validation is None:
            raise DataError(
                f"{spec.path}: there are no rows to answer; hold some out by dataset.validation_size, or name a split"
            )
        split, positions = splits.validation, splits.validation_positions
    chosen = positions[: section.max_eval_samples]
    num_total = len(positions) + (split.bad.count if spec.generation_split is not None else 0)
    return GenerationRows(
        examples=list(split.examples(chosen)),
        places=[split.place(position) for position in chosen],
        num_total=num_total,
        fingerprint=split.fingerprint(chosen)[:16],
        split=spec.generation_split or "validation",
        bad=split.bad,
        ids=split.identify(chosen),
        facts={**spec.facts, **(spec.describe_count(num_total) if spec.describe_count else {})},
    )


def _choose_rows(
    spec: InstructionSet, section: InstructionSection, seed: int
) -> tuple[InstructionSet, Splits, list[int], list[int]]:
    """Return the resolved set, its rows, and the positions of rows to train and validate on."""
    spec = resolve_set(spec)
    splits = load_splits(spec, section, seed)
    wanted = draw_rows(splits.train_positions, section.max_train_samples, seed)
    return spec, splits, wanted, splits.validation_positions[: section.max_eval_samples]


def _encode(
    name: str, split: ReadSplit, positions: Sequence[int], encoder: ExampleEncoder, section: InstructionSection
) -> tuple[Dataset, InstructionReport, set[int]]:
    """Encode rows, and return them, their report, and the positions of rows that the chat template rejects."""
    rows, counts = encode_rows(split, positions, encoder)
    own = name == split.name  # held-out rows belong to another split, which reports its own problems
    bad = BadRows(split.bad.count, list(split.bad.shown)) if own else BadRows()
    num_rows = len(positions) + bad.count
    for position, reason in counts.bad:
        bad.add(split.place(position), reason)
    if counts.bad:
        bad.stop(name, num_rows, section.on_bad_row)
    _check_counts(name, split, positions, counts, encoder, section)
    counted = {each.name for each in fields(counts)} & {each.name for each in fields(InstructionReport)}
    report = InstructionReport(
        name=name,
        rows_read=len(split.rows) if own else len(positions),
        bad_rows=bad.count,
        bad_examples=[*bad.shown, *(f"{split.place(position)}: no answer" for position in counts.empty[:3])],
        unread=dict(split.unread) if own else {},
        duplicate_rows=len(positions) - len({split.contents[position] for position in positions}),
        trained_share=counts.num_trained / counts.num_tokens,
        **{key: getattr(counts, key) for key in counted},
    )
    return rows, report, {position for position, _ in counts.bad}


def _check_counts(
    name: str,
    split: ReadSplit,
    positions: Sequence[int],
    counts: EncodingCounts,
    encoder: ExampleEncoder,
    section: InstructionSection,
) -> None:
    """Raise an error if too many rows have nothing to train on, or one is too long and must not be cut."""
    num_rows = len(positions)
    longer = f"longer than {encoder.length_key} ({encoder.max_length} tokens)"
    many_long = f"as are {counts.too_long_rows} of {num_rows} rows of {name}"
    allowed = section.max_empty_share
    if counts.too_long_rows and encoder.truncation == "error":
        raise DataError(
            f"{split.place(counts.too_long[0])}: {longer}, {many_long}; raise it, or set dataset.truncation to "
            "keep_answer or drop"
        )
    if num_rows > 1 and counts.answers_cut == counts.num_encoded > 0:
        raise DataError(
            f"{split.place(0)} and further: every answer or text of {name} loses its end, and with it the "
            f"end-of-text token: the model would not learn to stop; set {encoder.length_key} to "
            f"{counts.token_lengths_uncut['p95']} or more, or for plain texts dataset.split_long: true"
        )
    if encoder.truncation == "keep_answer" and counts.too_long_rows > allowed * num_rows:
        raise DataError(
            f"{split.place(counts.too_long[0])}: {longer} even without the middle of the prompt, {many_long}, more "
            f"than dataset.max_empty_share ({allowed:g}) allows; raise {encoder.length_key}, or "
            "dataset.max_empty_share to leave them out, or set dataset.truncation: cut_answer to cut off the ends of "
            "answers"
        )
    if counts.empty_rows > allowed * num_rows:
        raise DataError(
            f"{split.place(counts.empty[0])}: no answer to train on, as in {counts.empty_rows} of {num_rows} rows of "
            f"{name}, more than dataset.max_empty_share ({allowed:g}) allows"
        )
    if counts.empty_rows + counts.too_long_rows + len(counts.bad) == num_rows:
        raise DataError(
            f"{split.place(0)} and further: none of {num_rows} rows of {name} can be used; "
            f"{counts.too_long_rows} are {longer}, {counts.empty_rows} have no answer"
        )


def _report_use_of_rows(
    reports: dict[str, InstructionReport], splits: Splits, wanted: Sequence[int], chosen: Sequence[int]
) -> None:
    train = reports["train"]
    train.left_out_rows = len(splits.train_positions) - len(wanted)
    train.related_rows = splits.num_related
    if splits.validation is splits.train:
        train.held_out_rows = len(splits.validation_positions)
        train.held_out_ids = splits.train.identify(splits.validation_positions)
    if "validation" in reports:
        reports["validation"].left_out_rows = len(splits.validation_positions) - len(chosen)
        reports["validation"].shared_with_train = count_shared(splits, wanted)


def _fingerprint(splits: Splits, wanted: Sequence[int], chosen: Sequence[int]) -> str:
    digest = hashlib.sha256(splits.train.fingerprint(wanted).encode())
    if splits.validation is not None:
        digest.update(splits.validation.fingerprint(chosen).encode())
    return digest.hexdigest()[:16]
