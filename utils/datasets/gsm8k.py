r"""GSM8K: 7,473 + 1,319 grade-school word problems, each with a worked answer that ends in `#### ` and the number.

A row: {"question": "Tom has 5 books. He finds 13 more. How many has he?", "answer":
    "5 + 13 = <<5+13=18>>18\n#### 18"}.
The calculator annotations (<<5+13=18>>) are kept, as in the official answers.
Source: Cobbe et al. 2021, arXiv:2110.14168.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from utils.core.texts import join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.formats import QuestionSection

HUB_ID = "openai/gsm8k"
HUB_NAMES = ("gsm8k", "openai/gsm8k")
PROMPT = "Question: {question}\nAnswer:"


class Config(QuestionSection):
    """GSM8K, or rows with its two columns."""

    name: Literal["gsm8k"] = "gsm8k"

    OWN_PROMPT = PROMPT


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; all rows are trained on unless dataset.validation_size holds some out."""

    def read_row(row: Row) -> Example:
        asked = config.ask(read_text(row, "question"))
        return replace(asked, answer=join_answer(asked.prompt, read_text(row, "answer")))

    return InstructionSet(
        **config.locate(HUB_ID, subset="main"),
        read_row=read_row,
        ask=config.ask,
        columns=("question", "answer"),
        read_prompt=lambda row: config.ask(read_text(row, "question")),
        prompt_columns=("question",),
        metrics=("em_strict", "em_flexible", "em_metamath", "invalid_rate"),
        protocol="gsm8k zero-shot, run's own prompt",
        generation_split="test",
        stop=("Question:",) if config.prompt_template is None and not config.as_chat else (),
    )
