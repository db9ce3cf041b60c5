"""Prepares a classification or regression set: splits, labels, checks, tokens; and reports what it found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from utils.data.checks import SplitReport, check_split, count_shared_rows, require_columns
from utils.data.classification_set import ClassificationSet, Submission
from utils.data.dataset import ClassificationSection, count_held_out, spread
from utils.data.labels import LabelCoder, build_label_coder
from utils.data.sources import Source, load_file, load_split, resolved_commit
from utils.data.splits import draw_rows
from utils.data.tokenizing import fingerprint_rows, tokenise
from utils.errors import DataError

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


def prepare_classification(
    spec: ClassificationSet,
    section: ClassificationSection,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    reorder: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda names: names,
) -> ClassificationData:
    """Load, check and tokenise a set.

    Args:
        spec: The room's description of the set.
        section: The `dataset:` section, for length and numbers of rows.
        tokenizer: The base model's.
        seed: Draws max_train_samples and a held-out validation share.
        reorder: Gives label names in the order that an already fine-tuned checkpoint uses.

    Raises:
        DataError: The rows cannot be used as they are.
    """
    raw = _load_splits(spec, seed)
    labelled = raw.get("train") or next((rows for name, rows in raw.items() if not name.startswith("test")), None)
    coder = _build_coder(spec, labelled, reorder)
    whole, raw = raw, {name: _limit(rows, name, section, seed) for name, rows in raw.items()}
    overlap = _count_overlap(raw, spec)
    prepared, reports = {}, {}
    for name, rows in raw.items():
        encoded = _encode_labels(rows, name, spec, coder)
        prepared[name] = _prepare(encoded, name, spec, section, tokenizer)
        reports[name] = check_split(name, prepared[name].dataset, encoded, spec.text_columns, coder.names)
        reports[name].left_out_rows = len(whole[name]) - len(rows)
        reports[name].shared_with_train = overlap.get(name, 0)
        reports[name].log()
    return ClassificationData(
        spec=spec,
        coder=coder,
        train=prepared.get("train"),
        evals={suffix: prepared[f"eval{suffix}"] for suffix in spec.eval_splits if f"eval{suffix}" in prepared},
        tests=[(each, prepared[f"test {each.file}"]) for each in spec.submissions if f"test {each.file}" in prepared],
        fingerprint=_fingerprint(raw, spec),
        commit=resolved_commit(labelled) if labelled is not None else None,
        reports=reports,
    )


def _load_splits(spec: ClassificationSet, seed: int) -> dict[str, Dataset]:
    """Load every split that there is, named `train`, `eval` + suffix, `test` + submission."""
    splits = dict(_open_splits(spec))
    if "train" in splits and "eval" not in splits:
        splits |= _hold_out(splits["train"], spec, seed)
    elif spec.validation_size:
        logger.warning("dataset.validation_size has no effect: the set has a validation split")
    return splits


def _open_splits(spec: ClassificationSet) -> Iterator[tuple[str, Dataset]]:
    for name, rows in _find_splits(spec):
        if len(rows) == 0:
            raise DataError(f"{spec.path}: the split {name} is empty")
        require_columns(rows, name, spec)
        yield name, rows


def _find_splits(spec: ClassificationSet) -> Iterator[tuple[str, Dataset]]:
    source = Source(spec.path, spec.subset, spec.revision, spec.text_columns)
    if spec.train_split is not None:
        train = load_split(source, spec.train_split)
        if train is None:
            message = f"no split called {spec.train_split}; set dataset.train_split or rename the file"
            raise DataError(f"{spec.path}: {message}")
        yield "train", train
    for suffix, name in spec.eval_splits.items():
        rows = load_file(spec.validation_path, spec.text_columns) if spec.validation_path else load_split(source, name)
        if rows is not None:
            yield f"eval{suffix}", rows
    for each in spec.submissions:
        rows = _load_test(replace(source, subset=each.subset), each)
        if rows is not None:
            yield f"test {each.file}", rows


def _load_test(source: Source, submission: Submission) -> Dataset | None:
    """Load a test split; a set without one just has no submission."""
    try:
        return load_split(source, submission.split)
    except DataError as error:
        logger.warning("no predictions for %s: %s", submission.file, error)
        return None


def _hold_out(train: Dataset, spec: ClassificationSet, seed: int) -> dict[str, Dataset]:
    if not spec.validation_size:
        name = next(iter(spec.eval_splits.values()), "validation")
        raise DataError(
            f"{spec.path}: no split called {name}; add one, name a file by dataset.validation_path, or hold rows out "
            "by dataset.validation_size"
        )
    held_out = count_held_out(spec.validation_size, len(train))
    if held_out >= len(train):
        raise DataError(f"{spec.path}: dataset.validation_size leaves none of the {len(train)} rows to train on")
    parts = train.train_test_split(test_size=held_out, seed=seed)
    return {"train": parts["train"], "eval": parts["test"]}


def _build_coder(
    spec: ClassificationSet, labelled: Dataset | None, reorder: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> LabelCoder:
    if labelled is not None:
        return build_label_coder(spec, labelled, reorder)
    if not spec.label_names:
        raise DataError(f"{spec.path}: there are only unlabelled rows, and the classes are not known")
    order = reorder(spec.label_names)
    return LabelCoder(order, {index: order.index(name) for index, name in enumerate(spec.label_names)})


def _limit(rows: Dataset, name: str, section: ClassificationSection, seed: int) -> Dataset:
    limit = section.max_train_samples if name == "train" else section.max_eval_samples
    if limit is None or len(rows) <= limit or name.startswith("test"):
        return rows
    return (rows.shuffle(seed=seed) if name == "train" else rows).select(range(limit))


def _count_overlap(raw: dict[str, Dataset], spec: ClassificationSet) -> dict[str, int]:
    if "train" not in raw:
        return {}
    return {
        name: count_shared_rows(raw["train"], rows, spec.text_columns)
        for name, rows in raw.items()
        if name.startswith("eval")
    }


def _encode_labels(rows: Dataset, name: str, spec: ClassificationSet, coder: LabelCoder) -> Dataset:
    """Keep the texts, and the labels as the model's numbers; test rows lose theirs."""
    kept = _plain_texts(rows.select_columns(list(spec.text_columns)), name)
    if name.startswith("test"):
        return kept
    labels = coder.encode(rows[spec.label_column][:], f"{spec.path} {name}, column {spec.label_column}")
    return kept.add_column("labels", labels)


def _prepare(
    rows: Dataset,
    name: str,
    spec: ClassificationSet,
    section: ClassificationSection,
    tokenizer: PreTrainedTokenizerBase,
) -> PreparedSplit:
    """Tokenise; evaluation rows go by rising length, so that a batch holds rows alike."""
    tokens = tokenise(rows, tokenizer, spec.text_columns, section.max_length)
    order = list(range(len(rows)))
    if name != "train":
        lengths = tokens["length"][:]
        order.sort(key=lengths.__getitem__)
        tokens, rows = tokens.select(order), rows.select(order)
    return PreparedSplit(tokens, rows, order)


def _plain_texts(rows: Dataset, name: str) -> Dataset:
    """Give missing texts as empty ones (they are counted) and numbers as text, which is said."""
    from datasets import Dataset

    read = {column: rows[column][:] for column in rows.column_names}
    plain = {column: ["" if text is None else str(text) for text in texts] for column, texts in read.items()}
    for column, texts in read.items():
        odd = next((text for text in texts if not isinstance(text, (str, type(None)))), None)
        if odd is not None:
            kind = type(odd).__name__
            logger.warning("data %s: column %s holds values of type %s; they are read as text", name, column, kind)
    return rows if plain == read else Dataset.from_dict(plain)


def fingerprint_set(spec: ClassificationSet, section: ClassificationSection, seed: int) -> str:
    """Read the rows of a set and give the fingerprint that ClassificationData has of them."""
    raw = _load_splits(spec, seed)
    return _fingerprint({name: _limit(rows, name, section, seed) for name, rows in raw.items()}, spec)


def _fingerprint(raw: dict[str, Dataset], spec: ClassificationSet) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name, rows in sorted(raw.items()):
        labels = (spec.label_column,) if spec.label_column in rows.column_names else ()
        digest.update(f"{name}:{fingerprint_rows(rows, (*spec.text_columns, *labels))}".encode())
    return digest.hexdigest()[:16]
