r"""GSM8K: 7,473 + 1,319 grade-school word problems, each with a worked answer that ends in `#### ` and the number.

A row: {"question": "Tom has 5 books. He finds 13 more. How many has he?", "answer":
"5 + 13 = <<5+13=18>>18\n#### 18"}.
The calculator's annotations (<<5+13=18>>) are kept as they are: the official answers hold them.
Source: Cobbe et al. 2021, arXiv:2110.14168.
"""

from __future__ import annotations

from typing import Literal

from utils.config.sections.dataset import InstructionSection
from utils.core.texts import PromptTemplate, join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row

HUB_ID = "openai/gsm8k"
HUB_NAMES = ("gsm8k", "openai/gsm8k")
PROMPT = "Question: {question}\nAnswer:"


class Config(InstructionSection):
    """GSM8K, or rows with its two columns."""

    name: Literal["gsm8k"] = "gsm8k"

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that say otherwise than the rows, each with what is right."""
        found = super().find_conflicts()
        if set(PromptTemplate.parse(self.prompt_template or PROMPT).columns) - {"question"}:
            found["prompt_template"] = "the prompt can be made of one column: {question}"
        return found


def describe_instructions(config: Config) -> InstructionSet:
    """Answer the four questions; all rows are trained on unless dataset.validation_size holds some out."""
    template = PromptTemplate.parse(config.prompt_template or PROMPT)
    own_prompt = config.prompt_template is None

    def ask(question: str) -> Example:
        prompt = template.render({"question": question})
        return Example(prompt=prompt, question=question, user_turn=question if own_prompt else "")

    def read_row(row: Row) -> Example:
        asked, answer = ask(read_text(row, "question")), read_text(row, "answer")
        return Example(asked.prompt, join_answer(asked.prompt, answer), asked.question, asked.user_turn)

    return InstructionSet(
        path=config.path or HUB_ID,
        subset=config.subset or "main",
        revision=config.revision,
        read_row=read_row,
        ask=ask,
        columns=("question", "answer"),
        read_prompt=lambda row: ask(read_text(row, "question")),
        prompt_columns=("question",),
        metrics=("em_strict", "em_flexible", "em_metamath", "invalid_rate"),
        protocol="gsm8k zero-shot, run's own prompt",
        train_split=config.train_split,
        validation_split=config.validation_split,
        validation_size=config.validation_size,
        generation_split="test",
        stop=("Question:",) if own_prompt and not config.as_chat else (),
    )
