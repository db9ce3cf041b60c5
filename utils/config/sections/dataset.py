"""The `dataset:` section, which every dataset extends, for rows with labels and for rows with answers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from utils.config.section import Section
from utils.core.texts import parse_split, require_columns


class DatasetSection(Section):
    """The `dataset:` section; a dataset may add fields of its own."""

    ALIASES: ClassVar[dict[str, str]] = {
        "max_samples": "max_train_samples", "task": "subset", "config": "subset", "dataset_path": "path",
        "data_path": "path",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"name", "path", "revision", "max_train_samples", "max_eval_samples", "on_bad_row"}
    )
    TASK_TYPES: ClassVar[tuple[str, ...]] = ()
    ONLY_FOR: ClassVar[dict[str, str]] = {}
    """Fields that only one task type reads, and that type."""

    name: str
    """A dataset of `utils/datasets`, or the hub id, folder or file of your own set (read by the dataset custom)."""
    path: str | None = None
    """Folder, file or hub id to take the rows from; null: the dataset's own."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    subset: str | None = None
    """Configuration of the set, such as `cola`."""
    max_train_samples: int | None = Field(None, ge=1)
    """Train on this many rows, drawn by the seed; null: all."""
    max_eval_samples: int | None = Field(None, ge=1)
    """Evaluate on the first this many rows; the result is then marked partial. null: all."""
    on_bad_row: Literal["stop", "drop"] = "stop"
    """Rows that cannot be used (a missing value, no or an unknown label, an unknown role, an answer labelled false
    ...): stop, or leave them out, which is counted and reported."""

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that say otherwise than the set itself, each with what is right."""
        return {}


class ClassificationSection(DatasetSection):
    """What a dataset for SEQ_CLS reads."""

    ALIASES: ClassVar[dict[str, str]] = {
        **DatasetSection.ALIASES, "text_columns": "text_column", "max_seq_length": "max_length",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = DatasetSection.SHARED_FIELDS | {"max_length"}
    TASK_TYPES: ClassVar[tuple[str, ...]] = ("SEQ_CLS",)
    ONLY_FOR: ClassVar[dict[str, str]] = dict.fromkeys(("label_column", "num_labels", "max_length"), "SEQ_CLS")

    text_column: str | list[str] | None = None
    """One or two columns that hold the text; null: the dataset's own."""
    label_column: str | None = None
    """The column of the label; null: the dataset's own."""
    num_labels: int | None = Field(None, ge=1)
    """Number of classes, 1 for regression; null: the dataset's own, or read from the data."""
    quoting: bool | None = None
    """csv and tsv files: whether a field in quotes may hold separators and line ends. null: in a csv it may; in a
    tsv quotes are characters like others, and each line is a row."""
    max_length: int = Field(128, ge=1)
    """SEQ_CLS: tokens a row may have; what is longer is cut at the end, counted and reported."""


class InstructionSection(DatasetSection):
    """What a dataset for CAUSAL_LM reads: how rows become prompts and answers, and what happens to odd ones."""

    ALIASES: ClassVar[dict[str, str]] = {
        **DatasetSection.ALIASES, "split": "train_split", "validation_fraction": "validation_size",
        "val_size": "validation_size", "val_set_size": "validation_size", "template": "prompt_template",
        "eval_split": "validation_split",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = DatasetSection.SHARED_FIELDS | {
        "prompt_template", "as_chat", "system_prompt", "truncation", "split_long", "special_tokens_in_text",
        "max_empty_share", "allow_leakage",
    }  # fmt: skip
    TASK_TYPES: ClassVar[tuple[str, ...]] = ("CAUSAL_LM",)
    ONLY_FOR: ClassVar[dict[str, str]] = dict.fromkeys(SHARED_FIELDS - DatasetSection.SHARED_FIELDS, "CAUSAL_LM")

    prompt_template: str | None = None
    """CAUSAL_LM: the prompt with columns in braces, `Question: {question}\\nAnswer:`; null: the dataset's own. It is
    the prompt in training and inference, and in evaluation unless evaluation.prompt_template is another."""
    as_chat: bool = False
    """CAUSAL_LM: put prompt and answer through the model's chat template, as a user's and an assistant's turn."""
    system_prompt: str | None = None
    """CAUSAL_LM: a system turn before every chat that has none of its own."""
    train_split: str = "train"
    """Split to train on; a part of it may be cut out: `train[:5000]`, `train[10%:20%]`."""
    validation_split: str | None = None
    """Split on which the loss is evaluated; null: the dataset's own, or rows held out by validation_size."""
    validation_size: float | None = Field(None, ge=0)
    """Rows (500), or below 1 the share of the rows (0.05), held out of the training rows by the seed, where there is
    no validation split; SEQ_CLS: of each class its share. null: the dataset's own; 0: none."""
    truncation: Literal["keep_answer", "cut_answer", "drop", "error"] = "keep_answer"
    """CAUSAL_LM, rows longer than sft.max_length. keep_answer: cut the middle of the prompt (of a row about a document,
    that of the document alone) down to a quarter of the length at most; rows whose answer is still too long are left
    out and counted. cut_answer: the same, but such answers lose their ends, and the model learns no end from them.
    drop: leave the row out. error: stop. A conversation loses its later exchanges first; a plain text its end, unless
    dataset.split_long is set."""
    split_long: bool = False
    """CAUSAL_LM, plain texts longer than sft.max_length: cut them into pieces that fit, each a row of its own, of which
    only the last ends with the end-of-text token; false: they lose their ends."""
    special_tokens_in_text: Literal["keep", "escape"] = "keep"
    """CAUSAL_LM, special tokens such as <|im_end|> in a row's own text, which are counted either way. keep:
    the model reads them as special tokens; escape: as the ordinary characters that they are made of (of a row that
    goes through no chat template, also those of the prompt_template). A text that is read as it is, with a template's
    tokens in it, needs keep."""
    max_empty_share: float = Field(0.05, ge=0, le=1)
    """CAUSAL_LM: stop when more than this share of the rows has no token to train on, or is too long even without the
    middle of its prompt."""
    allow_leakage: bool | None = None
    """CAUSAL_LM: train although rows of an evaluation set are in the training rows, which is stored with the
    scores; false: never do. null: warn of such prompts, and refuse rows of sets asked by a prompt of their own."""

    @field_validator("prompt_template")
    @classmethod
    def _readable_template(cls, value: str | None) -> str | None:
        return value if value is None else require_columns(value)

    @field_validator("train_split", "validation_split")
    @classmethod
    def _readable_split(cls, value: str | None) -> str | None:
        if value is not None:
            parse_split(value)
        return value

    @field_validator("validation_size")
    @classmethod
    def _whole_rows(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError("is a whole number of rows, or a share below 1")
        return value

    def locate(self, path: str, **own: Any) -> dict[str, Any]:
        """Give, as an InstructionSet takes it, where the rows lie and which of them train and validate.

        Args:
            path: Where the set itself lies.
            **own: Its own subset, validation_split or validation_size, where the file names none.
        """
        written = {"path": self.path, "subset": self.subset, "revision": self.revision, "train_split": self.train_split,
                   "validation_split": self.validation_split, "validation_size": self.validation_size}  # fmt: skip
        chosen = {name: value for name, value in written.items() if value not in (None, "")}
        return {"path": path, **own, **chosen}

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that have no effect here, each with what is right."""
        found = {"split_long": "only plain texts are cut into pieces; leave it out"} if self.split_long else {}
        if self.system_prompt is not None and not self.as_chat:
            found["system_prompt"] = "these rows are no chats; set dataset.as_chat: true"
        return found
