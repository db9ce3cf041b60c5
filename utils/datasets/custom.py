"""Your own rows: a hub id, a folder or a file, described by the YAML.

A row for classification: {"text": "A fine film.", "label": "positive"}; two text columns make a pair; with
`num_labels: 1` the label is a number to regress on.
Rows for CAUSAL_LM, one line per format:
    template: any columns, put together by dataset.prompt_template, and a column with the answer
    prompt_completion: {"prompt": "2 + 3 =", "completion": " 5"}, or both as lists of turns
    messages: {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}
    alpaca: {"instruction": "Add.", "input": "2, 3", "output": "5"}, and with as_chat also system and history
    sharegpt: {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]}
    text: {"text": "All of this is trained on."}
docs/conversations.md shows what else a conversation may hold: tools and calls, reasoning, weights, a system text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from utils.config.sections.dataset import ClassificationSection, InstructionSection
from utils.core.errors import DataError
from utils.core.texts import PromptTemplate, shorten_list
from utils.data.dataset import FREE_METRICS, ClassificationSet, Example, InstructionSet, Row, as_columns
from utils.data.formats import (
    ANSWER_COLUMNS,
    Format,
    alpaca_format,
    conversations_format,
    explain_preference,
    find_answer_column,
    find_formats,
    prompt_completion_format,
    template_format,
    text_format,
)
from utils.data.row_files import UNQUOTED_KINDS, FileFormat

logger = logging.getLogger(__name__)

_USED_BY = {
    "prompt_template": ("template",),
    "answer_column": ("template", "prompt_completion"),
    "messages_column": ("messages", "sharegpt"),
    "as_chat": ("template", "prompt_completion", "alpaca"),
    "system_prompt": ("template", "prompt_completion", "alpaca", "messages", "sharegpt"),
    "roles": ("prompt_completion", "messages", "sharegpt"),
    "split_long": ("text",),
}
FORMATS = ("template", "prompt_completion", "messages", "alpaca", "sharegpt", "text")


class Config(ClassificationSection, InstructionSection):
    """Your own rows."""

    name: Literal["custom"] = "custom"
    path: str
    """Folder (files named train, validation, test), file (jsonl, json, csv, tsv, parquet) or hub id."""
    validation_path: str | None = None
    """File of validation rows, if `path` is a single file."""
    text_column: str | list[str] = "text"
    """One or two columns that hold the text."""
    label_column: str = "label"
    """Column of the label: strings, whole numbers, or any number if num_labels is 1."""
    label_names: list[str] | None = Field(None, min_length=2)
    """Names of the classes in index order; null: the data's own, sorted."""
    metrics: list[str] | None = None
    """Metrics of the set, of which the first chooses the best checkpoint; null: accuracy, or pearson and spearmanr."""
    train_split: str = "train"
    """Name of the training split."""
    validation_split: str = "validation"
    """Name of the validation split."""
    test_split: str | None = None
    """CAUSAL_LM: split whose prompts are answered in evaluations; null: the validation rows."""
    format: Literal["template", "prompt_completion", "messages", "alpaca", "sharegpt", "text"] | None = None
    """CAUSAL_LM: format of the rows; null: recognized by their columns, or template if prompt_template is set."""
    answer_column: str | None = None
    """CAUSAL_LM, format template or prompt_completion: column of the answer; null: completion or, for a template, the
    one of answer, completion, output and response that exists."""
    messages_column: str | None = None
    """CAUSAL_LM, format messages or sharegpt: column of the conversation; null: messages, or conversations."""
    roles: dict[str, str] = {}
    """CAUSAL_LM: additional names of roles in conversations: {narrator: user, hero: assistant}."""

    ALIASES: ClassVar[dict[str, str]] = {**InstructionSection.ALIASES, **ClassificationSection.ALIASES}
    TASK_TYPES: ClassVar[tuple[str, ...]] = ("SEQ_CLS", "CAUSAL_LM")
    ONLY_FOR: ClassVar[dict[str, str]] = {
        **ClassificationSection.ONLY_FOR,
        **InstructionSection.ONLY_FOR,
        "label_names": "SEQ_CLS",
        **dict.fromkeys(("format", "answer_column", "messages_column", "roles", "test_split"), "CAUSAL_LM"),
    }
    SHARED_FIELDS: ClassVar[frozenset[str]] = (
        ClassificationSection.SHARED_FIELDS | InstructionSection.SHARED_FIELDS | {"text_column", "label_column"}
    )

    @field_validator("label_names")
    @classmethod
    def _check_unique(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("names a class twice")
        return value

    @field_validator("roles")
    @classmethod
    def _check_roles(cls, value: dict[str, str]) -> dict[str, str]:
        for name, role in value.items():
            if role not in ("system", "user", "assistant", "tool"):
                raise ValueError(f"{name} is {role}, which is not a role; use system, user, assistant or tool")
        return value

    @property
    def stated_format(self) -> str | None:
        """The format as far as the YAML determines it."""
        return "template" if self.format is None and self.prompt_template is not None else self.format

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that contradict the format, each with the correct setting."""
        stated = self.stated_format
        found = super().find_conflicts() if stated in ("template", "prompt_completion", "alpaca") else {}
        found.pop("split_long", None)
        if self.quoting is not None and (kind := Path(self.path).suffix.lower()) in UNQUOTED_KINDS:
            found["quoting"] = f"has no effect on a {kind} file; leave it out"
        template = PromptTemplate.parse(self.prompt_template or "")
        if stated == "template" and self.prompt_template is None:
            found["format"] = "template needs dataset.prompt_template"
        if self.answer_column in template.columns:
            found["prompt_template"] = f"the prompt gives the answer away: it holds {{{self.answer_column}}}"
        idle = [] if stated is None else [key for key, formats in _USED_BY.items() if stated not in formats]
        for key in idle:
            if getattr(self, key):
                found[key] = f"has no effect with format: {stated}; leave one of them out"
        return found


def describe_classification(config: Config) -> ClassificationSet:
    """Describe the dataset from the YAML."""
    regression = config.num_labels == 1
    own = ("pearson", "spearmanr") if regression else ("accuracy",)
    num_named = len(config.label_names) if config.label_names else None
    return ClassificationSet(
        path=config.path,
        revision=config.revision,
        subset=config.subset,
        text_columns=as_columns(config.text_column, ("text",)),
        label_column=config.label_column,
        num_labels=config.num_labels or num_named,
        label_names=() if regression else (tuple(config.label_names) if config.label_names else None),
        metrics=tuple(config.metrics) if config.metrics else own,
        train_split=config.train_split,
        eval_splits={"": config.validation_split},
        validation_path=config.validation_path,
        validation_size=config.validation_size,
        form=FileFormat(quoting=config.quoting),
    )


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset from the YAML, or, by `resolve`, from the YAML and the rows' columns."""
    blank = InstructionSet(
        **config.locate(config.path),
        read_row=_read_unresolved,
        ask=None,
        metrics=tuple(config.metrics) if config.metrics else FREE_METRICS,
        protocol="custom zero-shot, run's own prompt",
        validation_path=config.validation_path,
        generation_split=config.test_split,
        form=FileFormat(quoting=config.quoting),
    )
    stated = config.stated_format
    if stated is None or (stated == "template" and config.answer_column is None):
        return replace(
            blank,
            resolve=lambda spec, there: _complete(spec, config, _choose_format(config, there)),
            resolve_prompt=lambda spec, there: _complete(spec, config, _choose_format(config, there, answered=False)),
        )
    return _complete(blank, config, _choose_format(config, ()))


def _read_unresolved(row: Row) -> Example:
    raise AssertionError(f"resolve_set must come before the rows are read, found {list(row)}")


def _complete(spec: InstructionSet, config: Config, chosen: Format) -> InstructionSet:
    """Complete a set with a format, keeping its other fields, which an evaluation may have changed."""
    stop = () if config.as_chat else chosen.stop
    return replace(spec, resolve=None, resolve_prompt=None, **{**vars(chosen), "stop": stop})


def _build_formats(config: Config, there: Sequence[str], *, answered: bool = True) -> dict[str, Format]:
    """Build every format that the YAML allows; `there` are the rows' columns."""
    formats = {
        "prompt_completion": prompt_completion_format(config.answer_column, config.roles, config.as_chat),
        "messages": conversations_format(config.messages_column or "messages", config.roles),
        "alpaca": alpaca_format(config.as_chat),
        "sharegpt": conversations_format(config.messages_column or "conversations", config.roles),
    }
    if len(text := as_columns(config.text_column, ())) == 1:
        formats["text"] = text_format(text[0])
    if config.prompt_template is not None:
        taken = PromptTemplate.parse(config.prompt_template).columns
        answer = config.answer_column or find_answer_column(there, taken)
        if answer is None and not answered:
            answer = ANSWER_COLUMNS[0]
        if answer is None:
            raise DataError(
                f"{config.path}: dataset.answer_column must name the column of the answer; "
                f"there are: {shorten_list(there)}"
            )
        formats["template"] = template_format(config.prompt_template, answer)
    return formats


def _choose_format(config: Config, there: Sequence[str], *, answered: bool = True) -> Format:
    """Choose the format by the columns, or for rows without answers by the columns of the prompt."""
    formats = _build_formats(config, there, answered=answered)
    if (stated := config.stated_format) is not None:
        if stated not in formats:
            needed = {"template": "dataset.prompt_template", "text": "one dataset.text_column"}
            raise DataError(f"dataset.format: {stated} needs {needed[stated]}")
        return formats[stated]
    found = find_formats(formats, there, answered=answered)
    if len(found) == 1:
        for key in ("roles", "split_long"):
            if getattr(config, key) and found[0] not in _USED_BY[key]:
                logger.warning("dataset.%s has no effect: the rows are of the format %s", key, found[0])
        return formats[found[0]]
    if (problem := explain_preference(there)) is not None:
        raise DataError(f"{config.path}: {problem}")
    what = f"the columns fit several formats ({', '.join(found)})" if found else "the columns fit no format"
    raise DataError(
        f"{config.path}: {what}; there are: {shorten_list(there)}. Set dataset.format to one of "
        f"{', '.join(FORMATS)} (template: with dataset.prompt_template)"
    )
