"""Your own rows: a hub id, a folder or a file, described by the YAML.

A row for classification: {"text": "A fine film.", "label": "positive"}; two text columns make a pair; with
`num_labels: 1` the label is a number to regress on.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from utils.data.dataset import ClassificationSet, DatasetSection, columns


class Config(DatasetSection):
    """Rows of your own."""

    name: Literal["custom"] = "custom"
    path: str
    """Folder (files named train, validation, test), file (jsonl, json, csv, tsv, parquet) or hub id."""
    validation_path: str | None = None
    """File of validation rows, where `path` is a single file."""
    validation_fraction: float | None = Field(None, gt=0, lt=1)
    """Hold out this share of the training rows, drawn by the seed, where there is no validation split."""
    text_column: str | list[str] = "text"
    """One or two columns that hold the text."""
    label_column: str = "label"
    """The column of the label: strings, whole numbers, or any number when num_labels is 1."""
    label_names: list[str] | None = Field(None, min_length=2)
    """Names of the classes in index order; null: the data's own, sorted."""
    metrics: list[str] | None = None
    """Metrics of the set, the first of which chooses the best checkpoint; null: accuracy, or pearson and spearmanr."""
    train_split: str = "train"
    """Name of the training split."""
    validation_split: str = "validation"
    """Name of the validation split."""

    TASK_TYPES: ClassVar[tuple[str, ...]] = ("SEQ_CLS", "CAUSAL_LM")
    SHARED_FIELDS: ClassVar[frozenset[str]] = DatasetSection.SHARED_FIELDS | {"text_column", "label_column"}

    @field_validator("label_names")
    @classmethod
    def _distinct(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("names a class twice")
        return value


def describe_classification(config: Config) -> ClassificationSet:
    """Answer the four questions from the YAML."""
    regression = config.num_labels == 1
    own = ("pearson", "spearmanr") if regression else ("accuracy",)
    num_named = len(config.label_names) if config.label_names else None
    return ClassificationSet(
        path=config.path,
        revision=config.revision,
        subset=config.subset,
        text_columns=columns(config.text_column, ("text",)),
        label_column=config.label_column,
        num_labels=config.num_labels or num_named,
        label_names=() if regression else (tuple(config.label_names) if config.label_names else None),
        metrics=tuple(config.metrics) if config.metrics else own,
        train_split=config.train_split,
        eval_splits={"": config.validation_split},
        validation_path=config.validation_path,
        validation_fraction=config.validation_fraction,
    )
