r"""MetaMathQA: 395,000 mathematical questions with worked answers, many rephrasing one question of GSM8K or MATH.

A row: {"type": "GSM_Rephrased", "query": "What is 2 plus 3?", "original_question": "Tom has 2 ...", "response":
"2 + 3 = 5\n#### 5\nThe answer is: 5"}.
Source: Yu et al. 2023, arXiv:2309.12284; the prompt is that of its training (Alpaca's without an input).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from utils.core.texts import join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.formats import QuestionSection

HUB_ID = "meta-math/MetaMathQA"
HUB_NAMES = ("metamathqa", "meta-math/metamathqa")  # lower case, as names are looked up
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{query}\n\n### Response:"
)
HELD_OUT = 500


class Config(QuestionSection):
    """MetaMathQA."""

    name: Literal["metamathqa"] = "metamathqa"

    OWN_PROMPT = PROMPT


def describe_instructions(config: Config) -> InstructionSet:
    """Answer the four questions; there is no validation split, so 500 rows are held out by their original question."""
    own_prompt = config.prompt_template is None

    def read_row(row: Row) -> Example:
        asked, answer = config.ask(read_text(row, "query")), read_text(row, "response")
        return replace(asked, answer=answer if own_prompt else join_answer(asked.prompt, answer))

    return InstructionSet(
        path=config.path or HUB_ID,
        subset=config.subset,
        revision=config.revision,
        read_row=read_row,
        ask=config.ask,
        columns=("query", "response"),
        read_prompt=lambda row: config.ask(read_text(row, "query")),
        prompt_columns=("query",),
        metrics=("em_strict", "em_flexible", "em_metamath", "invalid_rate"),
        protocol="metamathqa zero-shot, run's own prompt",
        train_split=config.train_split,
        validation_split=config.validation_split,
        validation_size=HELD_OUT if config.validation_size is None else config.validation_size,
        group=_find_group,
        stop=("### Instruction", "Instruction:", "Response:") if own_prompt and not config.as_chat else (),
    )


def _find_group(row: Row) -> str:
    original = row.get("original_question")
    return original if isinstance(original, str) and original.strip() else read_text(row, "query")
