"""Prepares a classification or regression dataset: splits, labels, checks, tokens and a report."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.config.sections.dataset import ClassificationSection
from utils.data.dataset import ClassificationSet, Submission, sample_evenly
from utils.data.labelled_rows import LabelledRows, read_classification
from utils.data.labels import LabelCoder, Reorder
from utils.data.report import MAX_ROWS, SplitReport, check_split, count_shared_rows, count_unwritable
from utils.data.splits import draw_rows
from utils.data.tokenizing import fingerprint_rows, tokenize_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass
class PreparedSplit:
    """One tokenized split."""

    dataset: Dataset
    """Model inputs, `labels` if any, `length` and `truncated`; evaluation rows are sorted by length."""
    texts: Dataset
    """The same rows, in the same order, as texts."""
    order: list[int]
    """Position of each row in the split as it was read."""
    ids: list[Any] = field(default_factory=list)
    """The rows' own numbers or names, in the same order; empty if they have none."""


@dataclass
class ClassificationData:
    """The prepared data of a run."""

    spec: ClassificationSet
    coder: LabelCoder
    train: PreparedSplit | None
    evals: dict[str, PreparedSplit]
    """Evaluation splits by suffix of the metrics' names: `""`, and `_mm` for mismatched MNLI."""
    tests: list[tuple[Submission, PreparedSplit]]
    fingerprint: str
    commit: str | None
    reports: dict[str, SplitReport] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """Number of classes, or 1 for regression."""
        return max(1, len(self.coder.names))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the model's ids; empty for regression."""
        return self.coder.names

    @property
    def num_train_rows(self) -> int:
        """Number of training rows; 0 if there is no training split."""
        return len(self.train.dataset) if self.train else 0

    def count_shown(self) -> tuple[int, int]:
        """Return the number of distinct rows seen in training and its evaluations, and of their tokens."""
        shown = [*([self.train] if self.train else []), *self.evals.values()]
        return sum(len(each.dataset) for each in shown), sum(sum(each.dataset["length"][:]) for each in shown)

    def list_training_lengths(self) -> list[int]:
        """Return the token count of every training row."""
        return list(self.train.dataset["length"][:]) if self.train else []

    def draw_training_rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Sample tokenized training rows with labels, or return all if there are no more than `count`."""
        rows = self.train.dataset if self.train else []
        return [dict(rows[index]) for index in draw_rows(range(len(rows)), count, seed)]

    def probe_rows(self, count: int) -> list[dict[str, Any]]:
        """Return some validation (else training) rows as texts, evenly spaced over the split."""
        split = self.evals.get("") or self.train
        return sample_evenly(split.texts, count) if split else []


def prepare_classification(
    spec: ClassificationSet,
    section: ClassificationSection,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    reorder: Reorder = tuple,
) -> ClassificationData:
    """Load, check and tokenize a dataset.

    The seed samples max_train_samples and a held-out validation share; `reorder` orders label names as an already
    fine-tuned checkpoint does.
    """
    read = read_classification(spec, section, seed, reorder)
    chosen = {name: _limit(rows, section, seed) for name, rows in read.splits.items()}
    prepared, reports = {}, {}
    for name, rows in chosen.items():
        plain = _build_dataset(rows)
        prepared[name] = _prepare(plain, rows, spec, section, tokenizer)
        reports[name] = report = check_split(name, prepared[name].dataset, plain, spec.text_columns, read.coder.names)
        report.left_out_rows = len(read.splits[name]) - len(rows)
        report.bad_rows, report.bad_examples = rows.bad.count, rows.bad.shown
        columns = [plain[column][:MAX_ROWS] for column in spec.text_columns]
        report.unreadable = count_unwritable(map(" ".join, zip(*columns, strict=True)), tokenizer, to_read=True)
        if "train" in chosen and name.startswith("eval"):
            report.shared_with_train = count_shared_rows(chosen["train"].texts, rows.texts)
        report.log()
    return ClassificationData(
        spec=spec,
        coder=read.coder,
        train=prepared.get("train"),
        evals={suffix: prepared[f"eval{suffix}"] for suffix in spec.eval_splits if f"eval{suffix}" in prepared},
        tests=[(each, prepared[f"test {each.file}"]) for each in spec.submissions if f"test {each.file}" in prepared],
        fingerprint=_fingerprint(chosen, spec),
        commit=read.commit,
        reports=reports,
    )


def fingerprint_set(spec: ClassificationSet, section: ClassificationSection, seed: int) -> str:
    """Return the fingerprint that ClassificationData would have for these rows."""
    read = read_classification(spec, section, seed)
    return _fingerprint({name: _limit(rows, section, seed) for name, rows in read.splits.items()}, spec)


def _fingerprint(splits: dict[str, LabelledRows], spec: ClassificationSet) -> str:
    digest = hashlib.sha256()
    for name, rows in sorted(splits.items()):
        columns = {**rows.texts, **({spec.label_column: rows.labels} if rows.labels else {})}
        digest.update(f"{name}:{fingerprint_rows(columns, tuple(columns))}".encode())
    return digest.hexdigest()[:16]


def _limit(rows: LabelledRows, section: ClassificationSection, seed: int) -> LabelledRows:
    import numpy as np

    limit = section.max_train_samples if rows.name == "train" else section.max_eval_samples
    if limit is None or len(rows) <= limit or rows.is_test:
        return rows
    order = np.random.default_rng(seed).permutation(len(rows)).tolist() if rows.name == "train" else range(len(rows))
    return rows.select(order[:limit])


def _build_dataset(rows: LabelledRows) -> Dataset:
    """Build a dataset of texts (missing ones empty, numbers as text with a warning) and labels."""
    from datasets import Dataset

    for column, texts in rows.texts.items():
        odd = next((text for text in texts if not isinstance(text, (str, type(None)))), None)
        if odd is not None:
            kind = type(odd).__name__
            logger.warning("data %s: column %s holds values of type %s; they are read as text", rows.name, column, kind)
    plain = {column: ["" if text is None else str(text) for text in texts] for column, texts in rows.texts.items()}
    return Dataset.from_dict(plain if rows.codes is None else {**plain, "labels": rows.codes})


def _prepare(
    plain: Dataset,
    rows: LabelledRows,
    spec: ClassificationSet,
    section: ClassificationSection,
    tokenizer: PreTrainedTokenizerBase,
) -> PreparedSplit:
    """Tokenize a split; evaluation rows are sorted by length, so that a batch holds rows of similar length."""
    tokens = tokenize_rows(plain, tokenizer, spec.text_columns, section.max_length)
    if rows.name == "train":
        return PreparedSplit(tokens, plain, rows.positions)
    lengths = tokens["length"][:]
    order = sorted(range(len(plain)), key=lengths.__getitem__)
    rows = rows.select(order)
    return PreparedSplit(tokens.select(order), plain.select(order), rows.positions, rows.ids)
