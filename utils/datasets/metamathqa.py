r"""MetaMathQA: 395,000 math questions with worked answers, many of them rephrasings of a question of GSM8K or MATH.

A row: {"type": "GSM_Rephrased", "query": "What is 2 plus 3?", "original_question": "Tom has 2 ...", "response":
    "2 + 3 = 5\n#### 5\nThe answer is: 5"}.
Source: Yu et al. 2023, arXiv:2309.12284; the prompt is the one it was trained with (Alpaca's without an input).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import field_validator

from utils.core.texts import RowError, join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.formats import ALPACA, QuestionSection

HUB_ID = "meta-math/MetaMathQA"
HUB_NAMES = ("metamathqa", "meta-math/metamathqa")  # in lower case, since lookups ignore case
PROMPT = ALPACA.replace("{instruction}", "{query}")
HELD_OUT = 500


DEFAULT = "default"
"""Key of the prompt for types that have none."""


class Config(QuestionSection):
    """MetaMathQA."""

    name: Literal["metamathqa"] = "metamathqa"

    OWN_PROMPT = PROMPT

    prompt_template: str | dict[str, str] | None = None  # type: ignore[assignment]  # wider, and only read
    """The prompt, with the column in braces: `Question: {query}\\nAnswer:`; null: that of MetaMathQA's own training. Or
    a mapping of a row's `type` to its prompt: {GSM_AnsAug: ..., default: ...}. `default` applies to all other types and
    to questions of other datasets; without it, rows of other types are bad rows."""

    @field_validator("prompt_template")
    @classmethod
    def _check_template(cls, value: Any) -> Any:
        if value == {}:
            raise ValueError("is empty; name a type of rows and its prompt, or leave the key out")
        for template in value.values() if isinstance(value, dict) else [value]:
            QuestionSection._check_template(template)
        return value

    def find_conflicts(self) -> dict[str, str]:
        """Check each prompt of a mapping like a single one."""
        found = {}
        for section in self.by_type.values():
            found.update(QuestionSection.find_conflicts(section))
        return found

    @property
    def by_type(self) -> dict[str, Config]:
        """Sections with a single prompt by row type; `default` is that of all others."""
        if not isinstance(self.prompt_template, dict):
            return {DEFAULT: self}
        return {kind: self.model_copy(update={"prompt_template": one}) for kind, one in self.prompt_template.items()}


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; without a validation split, 500 rows are held out by their original question."""
    own_prompt, sections = config.prompt_template is None, config.by_type
    default = sections.get(DEFAULT)
    by_type = ("type",) if isinstance(config.prompt_template, dict) else ()

    def read_prompt(row: Row) -> Example:
        kind = read_text(row, "type") if by_type else DEFAULT
        section = sections.get(kind, default)
        if section is None:
            known = ", ".join(sections)
            raise RowError(f"is of type {kind}, and dataset.prompt_template is for {known}; add default to it")
        return section.ask(read_text(row, "query"))

    def read_row(row: Row) -> Example:
        asked, answer = read_prompt(row), read_text(row, "response")
        return replace(asked, answer=answer if own_prompt else join_answer(asked.prompt, answer))

    return InstructionSet(
        **config.locate(HUB_ID, validation_size=HELD_OUT),
        read_row=read_row,
        ask=None if default is None else default.ask,
        columns=("query", "response", *by_type),
        choices={column: tuple(kind for kind in sections if kind != DEFAULT) for column in by_type},
        read_prompt=read_prompt,
        prompt_columns=("query", *(by_type if default is None else ())),
        metrics=("em_strict", "em_flexible", "em_metamath", "invalid_rate"),
        protocol="metamathqa zero-shot, run's own prompt",
        group=_find_group,
        stop=("### Instruction", "Instruction:", "Response:") if own_prompt and not config.as_chat else (),
    )


def _find_group(row: Row) -> str:
    original = row.get("original_question")
    return original if isinstance(original, str) and original.strip() else read_text(row, "query")
