"""Prepares a classification or regression set: splits, labels, checks, tokens; and reports what it found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import ClassificationSection
from utils.core.errors import DataError
from utils.data.checks import SplitReport, check_split, count_shared_rows
from utils.data.classification_set import ClassificationSet, Submission
from utils.data.dataset import spread
from utils.data.gathering import DataProblems
from utils.data.labelled_rows import LabelledRows, encode_labels, hold_out, read_labelled_rows
from utils.data.labels import LabelCoder, Reorder, build_label_coder, point_out_alike, type_labels
from utils.data.reading import BadRows, stop_at_bad_rows
from utils.data.rows import Rows, open_file, open_rows
from utils.data.sources import Source
from utils.data.splits import draw_rows
from utils.data.tokenizer_coverage import MAX_ROWS, count_unwritable
from utils.data.tokenizing import fingerprint_rows, tokenise

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass
class PreparedSplit:
    """One tokenised split."""

    dataset: Dataset
    """Model inputs, `labels` where there are any, `length` and `truncated`; evaluation rows by rising length."""
    texts: Dataset
    """The same rows, in the same order, as texts."""
    order: list[int]
    """Where each row stands in the split as it was read."""
    ids: list[Any] = field(default_factory=list)
    """The rows' own numbers or names, in the same order; empty where they have none."""


@dataclass
class ClassificationData:
    """Everything the trainer needs to know of the data."""

    spec: ClassificationSet
    coder: LabelCoder
    train: PreparedSplit | None
    evals: dict[str, PreparedSplit]
    """By suffix of the metrics' names: `""`, and `_mm` for mismatched MNLI."""
    tests: list[tuple[Submission, PreparedSplit]]
    fingerprint: str
    """Hash of all rows used."""
    commit: str | None
    """Resolved commit of a hub dataset."""
    reports: dict[str, SplitReport] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """Classes, or 1 for regression."""
        return max(1, len(self.coder.names))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the model's ids; empty for regression."""
        return self.coder.names

    @property
    def num_train_rows(self) -> int:
        """Rows of the training split; 0 where there is none."""
        return len(self.train.dataset) if self.train else 0

    def count_shown(self) -> tuple[int, int]:
        """Count the rows that training and its evaluations show the model, each once, and their tokens."""
        shown = [*([self.train] if self.train else []), *self.evals.values()]
        return sum(len(each.dataset) for each in shown), sum(sum(each.dataset["length"][:]) for each in shown)

    def draw_training_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Draw tokenised training rows with their labels by a seed; all of them where there are no more."""
        rows = self.train.dataset if self.train else []
        return [dict(rows[index]) for index in draw_rows(range(len(rows)), count, seed)]

    def probe_rows(self, count: int) -> list[dict[str, Any]]:
        """Give some validation (else training) rows as texts, spread over the split."""
        split = self.evals.get("") or self.train
        return spread(split.texts, count) if split else []


_Encoded = tuple[LabelledRows, list[int | float] | None]


def prepare_classification(
    spec: ClassificationSet,
    section: ClassificationSection,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    reorder: Reorder = lambda names: tuple(names),
) -> ClassificationData:
    """Load, check and tokenise a set.

    Args:
        spec: The dataset's description of the set.
        section: The `dataset:` section, for length and numbers of rows.
        tokenizer: The base model's.
        seed: Draws max_train_samples and a held-out validation share.
        reorder: Gives label names in the order that an already fine-tuned checkpoint uses.

    Raises:
        DataError: The rows cannot be used as they are.
    """
    coder, read, whole = read_classification(spec, section, seed, reorder)
    raw = {name: _limit(rows, section, seed) for name, rows in whole.items()}
    prepared, reports = {}, {}
    for name, (rows, codes) in raw.items():
        plain = _build_dataset(rows, codes)
        prepared[name] = _prepare(plain, rows, spec, section, tokenizer)
        reports[name] = report = check_split(name, prepared[name].dataset, plain, spec.text_columns, coder.names)
        report.left_out_rows = len(whole[name][0]) - len(rows)
        report.bad_rows, report.bad_examples = rows.bad.count, rows.bad.shown
        shown = (
            " ".join(texts) for texts in zip(*(plain[column][:MAX_ROWS] for column in spec.text_columns), strict=True)
        )
        report.unreadable = count_unwritable(shown, tokenizer, to_read=True)
        if "train" in raw and name.startswith("eval"):
            report.shared_with_train = count_shared_rows(raw["train"][0].texts, rows.texts)
        report.log()
    return ClassificationData(
        spec=spec,
        coder=coder,
        train=prepared.get("train"),
        evals={suffix: prepared[f"eval{suffix}"] for suffix in spec.eval_splits if f"eval{suffix}" in prepared},
        tests=[(each, prepared[f"test {each.file}"]) for each in spec.submissions if f"test {each.file}" in prepared],
        fingerprint=_fingerprint({name: rows for name, (rows, _) in raw.items()}, spec),
        commit=next((rows.rows.commit for name, rows in read.items() if not name.startswith("test")), None),
        reports=reports,
    )


def read_classification(
    spec: ClassificationSet, section: ClassificationSection, seed: int, reorder: Reorder = lambda names: tuple(names)
) -> tuple[LabelCoder, dict[str, LabelledRows], dict[str, _Encoded]]:
    """Read a set and encode its labels, without a tokenizer.

    Returns:
        The classes; every split as it was read; and the splits by use, with their labels.

    Raises:
        DataError: With all that is wrong with the rows: columns, splits and labels.
    """
    found = DataProblems()
    read = _read_splits(spec, found)
    if (spec.train_split is not None and "train" not in read) or all(name.startswith("test") for name in read):
        found.stop()  # the classes would be told by too few rows
    with found.gather():
        coder = _build_coder(spec, read, reorder)
        whole = _encode_splits(read, spec, coder, section, found)
        found.stop()
        return coder, read, _hold_out_rows(whole, spec, coder, seed)
    found.stop()
    raise AssertionError("what is missing was gathered")


def _read_splits(spec: ClassificationSet, found: DataProblems) -> dict[str, LabelledRows]:
    """Read every split that there is, named `train`, `eval` + suffix, `test` + submission."""
    read: dict[str, LabelledRows] = {}
    absent: set[str] = set()
    for name, opened in _open_splits(spec):
        with found.gather():
            if (split := opened()) is None:
                absent.add(name)
            else:
                read[name] = _read_split(name, split, spec, found)
    with found.gather():
        _require_evaluation(spec, absent)
    if "train" in read and "eval" in read and spec.validation_size:
        logger.warning("dataset.validation_size has no effect: the set has a validation split")
    read |= _read_tests(spec)
    untyped = {name: rows for name, rows in read.items() if not rows.rows.is_typed}
    as_label = type_labels(rows.labels for rows in untyped.values())
    return read | {name: replace(rows, labels=list(map(as_label, rows.labels))) for name, rows in untyped.items()}


def _read_split(name: str, rows: Rows, spec: ClassificationSet, found: DataProblems) -> LabelledRows:
    """Read a split; of one that lacks a column of text the labels are read, to be looked at with the others."""
    there = rows.column_names()
    texts = tuple(column for column in spec.text_columns if column in there)
    if len(texts) < len(spec.text_columns) and spec.label_column in there and len(rows):
        with found.gather():
            read_labelled_rows(name, rows, spec)
        spec = replace(spec, text_columns=texts)
    read = read_labelled_rows(name, rows, spec)
    if not len(read):
        stop_at_bad_rows(read.bad, read.name, len(read.rows), "stop")
    return read


def _open_splits(spec: ClassificationSet) -> Iterator[tuple[str, Callable[[], Rows | None]]]:
    if spec.train_split is not None:
        yield "train", partial(_open_train, spec, spec.train_split)
    for suffix, name in spec.eval_splits.items():
        path = spec.validation_path
        yield f"eval{suffix}", partial(open_file, path, spec.form) if path else partial(_open_split, spec, name)


def _open_train(spec: ClassificationSet, split: str) -> Rows:
    if (rows := _open_split(spec, split)) is None:
        message = f"no split called {split}; set dataset.train_split or rename the file"
        raise DataError(f"{spec.path}: {message}")
    return rows


def _open_split(spec: ClassificationSet, split: str, subset: str | None = None) -> Rows | None:
    if spec.open_split is not None:
        return spec.open_split(split, subset or spec.subset)
    return open_rows(Source(spec.path, subset or spec.subset, spec.revision, spec.form), split)


def _read_tests(spec: ClassificationSet) -> dict[str, LabelledRows]:
    """Read the test splits; a set without one, or with a broken one, just has no submission."""
    read: dict[str, LabelledRows] = {}
    for each in spec.submissions:
        try:
            rows = _open_split(spec, each.split, each.subset)
            if rows is not None:
                read[f"test {each.file}"] = _require_all(read_labelled_rows(f"test {each.file}", rows, spec))
        except DataError as error:
            logger.warning("no predictions for %s: %s", each.file, error)
    return read


def _require_all(rows: LabelledRows) -> LabelledRows:
    """See to it that every row of a test split is there under a number of its own: the server counts them."""
    stop_at_bad_rows(rows.bad, rows.name, len(rows.rows), "stop", can_drop=False)
    if len(set(rows.ids)) < len(rows.ids):
        raise DataError(f"{rows.place(0)} and further: rows of {rows.name} have the same number")
    return rows


def _build_coder(spec: ClassificationSet, read: dict[str, LabelledRows], reorder: Reorder) -> LabelCoder:
    """Tell the classes by all rows to train on, held-out ones included; without any, by those to score on."""
    labelled = [rows for name, rows in read.items() if not name.startswith("test")]
    if labelled:
        chosen = [read["train"]] if "train" in read else labelled
        places: dict[Any, str] = {}
        for rows in chosen:
            for label, place in rows.first_places().items():
                places.setdefault(label, place)
        if spec.label_names is None:
            point_out_alike(spec.label_column, places)
        return build_label_coder(spec, places, chosen[0].rows.class_names(spec.label_column), reorder)
    if not spec.label_names:
        raise DataError(f"{spec.path}: there are only unlabelled rows, and the classes are not known")
    order = reorder(dict.fromkeys(spec.label_names, spec.path))
    return LabelCoder(order, {index: order.index(name) for index, name in enumerate(spec.label_names)})


def _encode_splits(
    read: dict[str, LabelledRows],
    spec: ClassificationSet,
    coder: LabelCoder,
    section: ClassificationSection,
    found: DataProblems,
) -> dict[str, _Encoded]:
    """Encode the labels of all splits but tests; bad rows are gathered, and a split to evaluate on is looked for."""
    encoded: dict[str, _Encoded] = {}
    for name, rows in read.items():
        if name.startswith("test"):
            encoded[name] = rows, None
            continue
        with found.gather():
            kept, codes = encode_labels(rows, coder)
            encoded[name] = kept, codes
            stop_at_bad_rows(kept.bad, name, len(kept.rows), section.on_bad_row)
    return encoded


def _require_evaluation(spec: ClassificationSet, absent: set[str]) -> None:
    """See to it that there are rows to evaluate on, or that some are held out for that."""
    if spec.train_split is None or spec.validation_size or {f"eval{suffix}" for suffix in spec.eval_splits} - absent:
        return
    name = next(iter(spec.eval_splits.values()), "validation")
    raise DataError(
        f"{spec.path}: no split called {name}; add one, name a file by dataset.validation_path, or hold rows out by "
        "dataset.validation_size"
    )


def _hold_out_rows(
    encoded: dict[str, _Encoded], spec: ClassificationSet, coder: LabelCoder, seed: int
) -> dict[str, _Encoded]:
    """Hold rows out where there is no eval split."""
    if "train" not in encoded or any(name.startswith("eval") for name in encoded):
        return encoded
    train, labels = encoded["train"]
    assert labels is not None, "they are encoded"
    assert spec.validation_size, "it was looked for"
    classes = None if coder.is_regression else train.labels
    held_out = hold_out(len(train), classes, spec.validation_size, seed, spec.path)
    parts = {"train": [index for index in range(len(labels)) if index not in held_out], "eval": sorted(held_out)}
    chosen: dict[str, _Encoded] = {
        name: (replace(train.select(indices), name=name), [labels[index] for index in indices])
        for name, indices in parts.items()
    }
    chosen["eval"] = replace(chosen["eval"][0], bad=BadRows()), chosen["eval"][1]
    return {**chosen, **{name: each for name, each in encoded.items() if name != "train"}}


def _limit(encoded: _Encoded, section: ClassificationSection, seed: int) -> _Encoded:
    import numpy as np

    rows, codes = encoded
    limit = section.max_train_samples if rows.name == "train" else section.max_eval_samples
    if limit is None or len(rows) <= limit or rows.name.startswith("test"):
        return encoded
    order = np.random.default_rng(seed).permutation(len(rows)).tolist() if rows.name == "train" else range(len(rows))
    return rows.select(order[:limit]), [codes[index] for index in order[:limit]] if codes is not None else None


def _build_dataset(rows: LabelledRows, codes: list[int | float] | None) -> Dataset:
    """Give the texts, missing ones as empty (they are counted) and numbers as text, which is said; and the labels."""
    from datasets import Dataset

    for column, texts in rows.texts.items():
        odd = next((text for text in texts if not isinstance(text, (str, type(None)))), None)
        if odd is not None:
            kind = type(odd).__name__
            logger.warning("data %s: column %s holds values of type %s; they are read as text", rows.name, column, kind)
    plain = {column: ["" if text is None else str(text) for text in texts] for column, texts in rows.texts.items()}
    return Dataset.from_dict(plain if codes is None else {**plain, "labels": codes})


def _prepare(
    plain: Dataset,
    rows: LabelledRows,
    spec: ClassificationSet,
    section: ClassificationSection,
    tokenizer: PreTrainedTokenizerBase,
) -> PreparedSplit:
    """Tokenise; evaluation rows go by rising length, so that a batch holds rows alike."""
    tokens = tokenise(plain, tokenizer, spec.text_columns, section.max_length)
    if rows.name == "train":
        return PreparedSplit(tokens, plain, rows.positions)
    lengths = tokens["length"][:]
    order = sorted(range(len(plain)), key=lengths.__getitem__)
    rows = rows.select(order)
    return PreparedSplit(tokens.select(order), plain.select(order), rows.positions, rows.ids)


def fingerprint_set(spec: ClassificationSet, section: ClassificationSection, seed: int) -> str:
    """Read the rows of a set and give the fingerprint that ClassificationData has of them."""
    _, _, whole = read_classification(spec, section, seed)
    return _fingerprint({name: _limit(each, section, seed)[0] for name, each in whole.items()}, spec)


def _fingerprint(raw: dict[str, LabelledRows], spec: ClassificationSet) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name, rows in sorted(raw.items()):
        columns = {**rows.texts, **({spec.label_column: rows.labels} if rows.labels else {})}
        digest.update(f"{name}:{fingerprint_rows(columns, tuple(columns))}".encode())
    return digest.hexdigest()[:16]
