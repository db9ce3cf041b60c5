"""The `dataset:` section and its variants for rows with labels and rows with answers; every dataset extends one."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from utils.config.section import Section
from utils.core.texts import parse_split, require_columns


class DatasetSection(Section):
    """The `dataset:` section; a dataset may add its own fields."""

    ALIASES: ClassVar[dict[str, str]] = {
        "max_samples": "max_train_samples", "task": "subset", "config": "subset", "dataset_path": "path",
        "data_path": "path",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"name", "path", "revision", "max_train_samples", "max_eval_samples", "on_bad_row"}
    )
    TASK_TYPES: ClassVar[tuple[str, ...]] = ()
    ONLY_FOR: ClassVar[dict[str, str]] = {}
    """Fields that apply to a single task type, mapped to that type."""

    name: str
    """A dataset of `utils/datasets`, or the hub id, folder or file of your own set (read by the dataset custom)."""
    path: str | None = None
    """Folder, file or hub id to read the rows from; null: the dataset's own."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    subset: str | None = None
    """Configuration of the dataset, such as `cola`."""
    max_train_samples: int | None = Field(None, ge=1)
    """Train on this many rows, sampled with the seed; null: all."""
    max_eval_samples: int | None = Field(None, ge=1)
    """Evaluate on the first this many rows and mark the result as partial; null: all."""
    on_bad_row: Literal["stop", "drop"] = "stop"
    """What to do with unusable rows (a missing value, a missing or unknown label, an unknown role, an answer labelled
    false ...): stop, or drop them, which is counted and reported."""

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that contradict the dataset itself, each with the correct setting."""
        return {}


class ClassificationSection(DatasetSection):
    """The `dataset:` section for SEQ_CLS."""

    ALIASES: ClassVar[dict[str, str]] = {
        **DatasetSection.ALIASES, "text_columns": "text_column", "max_seq_length": "max_length",
    }  # fmt: skip
    SHARED_FIELDS: ClassVar[frozenset[str]] = DatasetSection.SHARED_FIELDS | {"max_length"}
    TASK_TYPES: ClassVar[tuple[str, ...]] = ("SEQ_CLS",)
    ONLY_FOR: ClassVar[dict[str, str]] = dict.fromkeys(("label_column", "num_labels", "max_length"), "SEQ_CLS")

    text_column: str | list[str] | None = None
    """One or two columns that hold the text; null: the dataset's own."""
    label_column: str | None = None
    """Column that holds the label; null: the dataset's own."""
    num_labels: int | None = Field(None, ge=1)
    """Number of classes, 1 for regression; null: the dataset's own, or read from the data."""
    quoting: bool | None = None
    """csv and tsv files: whether quoted fields may contain separators and line breaks. null: yes for csv; no for tsv,
    where quotes are ordinary characters and each line is a row."""
    max_length: int = Field(128, ge=1)
    """SEQ_CLS: maximum number of tokens in a row; longer rows are cut at the end, counted and reported."""


class InstructionSection(DatasetSection):
    """The `dataset:` section for CAUSAL_LM: how rows become prompts and answers, and how irregular rows are handled."""

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
    """CAUSAL_LM: the prompt, with columns in braces: `Question: {question}\\nAnswer:`; null: the dataset's own. It
    applies to training, inference and, unless evaluation.prompt_template is set, evaluation."""
    as_chat: bool = False
    """CAUSAL_LM: format prompt and answer with the model's chat template, as a user turn and an assistant turn."""
    system_prompt: str | None = None
    """CAUSAL_LM: a system turn for every chat that has none."""
    train_split: str = "train"
    """Split to train on, or part of one: `train[:5000]`, `train[10%:20%]`."""
    validation_split: str | None = None
    """Split to evaluate the loss on; null: the dataset's own, or rows held out by validation_size."""
    validation_size: float | None = Field(None, ge=0)
    """If there is no validation split: number of rows (500), or as a fraction below 1 the share of rows (0.05), to hold
    out of the training rows at random with the seed; SEQ_CLS: stratified by class. null: the dataset's own; 0: none."""
    truncation: Literal["keep_answer", "cut_answer", "drop", "error"] = "keep_answer"
    """CAUSAL_LM, rows longer than sft.max_length. keep_answer: cut the middle of the prompt (or of the document, in a
    row about one) down to a quarter of the length at most; drop and count rows whose answer is still too long.
    cut_answer: the same, but cut such answers at the end, so that the model learns no end of text from them. drop: drop
    the row. error: stop. A conversation loses its last exchanges first; a plain text its end, unless dataset.split_long
    is set."""
    split_long: bool = False
    """CAUSAL_LM, plain texts longer than sft.max_length: split them into rows that fit, of which only the last one ends
    with the end-of-text token; false: cut them at the end."""
    special_tokens_in_text: Literal["keep", "escape"] = "keep"
    """CAUSAL_LM, special tokens such as <|im_end|> in a row's own text, which are counted either way. keep: encode them
    as special tokens; escape: encode them as ordinary characters (including those of the prompt_template, for rows
    without a chat template). A text that already contains a chat template's tokens needs keep."""
    max_empty_share: float = Field(0.05, ge=0, le=1)
    """CAUSAL_LM: stop if more than this share of the rows has no token to train on, or is too long even after the
    middle of its prompt is cut."""
    allow_leakage: bool | None = None
    """CAUSAL_LM: whether to train if rows of an evaluation set are in the training rows, which is stored with the
    scores. null: warn about such prompts, and refuse to train on rows of sets that are asked with a prompt of their
    own."""

    @field_validator("prompt_template")
    @classmethod
    def _check_template(cls, value: str | None) -> str | None:
        return value if value is None else require_columns(value)

    @field_validator("train_split", "validation_split")
    @classmethod
    def _check_split(cls, value: str | None) -> str | None:
        if value is not None:
            parse_split(value)
        return value

    @field_validator("validation_size")
    @classmethod
    def _check_size(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError("is a whole number of rows, or a share below 1")
        return value

    def locate(self, path: str, **own: Any) -> dict[str, Any]:
        """Return, as keyword arguments of InstructionSet, where the rows are and which splits train and validate.

        Args:
            path: Default path of the dataset.
            **own: Its default subset, validation_split or validation_size.
        """
        written = {"path": self.path, "subset": self.subset, "revision": self.revision, "train_split": self.train_split,
                   "validation_split": self.validation_split, "validation_size": self.validation_size}  # fmt: skip
        chosen = {name: value for name, value in written.items() if value not in (None, "")}
        return {"path": path, **own, **chosen}

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that have no effect here, each with the correct setting."""
        found = {"split_long": "only plain texts are cut into pieces; leave it out"} if self.split_long else {}
        if self.system_prompt is not None and not self.as_chat:
            found["system_prompt"] = "these rows are not chats; set dataset.as_chat: true"
        return found
