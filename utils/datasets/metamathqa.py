r"""MetaMathQA: 395,000 mathematical questions with worked answers, many rephrasing one question of GSM8K or MATH.

A row: {"type": "GSM_Rephrased", "query": "What is 2 plus 3?", "original_question": "Tom has 2 ...", "response":
"2 + 3 = 5\n#### 5\nThe answer is: 5"}.
Source: Yu et al. 2023, arXiv:2309.12284; the prompt is that of its training (Alpaca's without an input).
"""

from __future__ import annotations

from typing import Literal

from utils.config.sections.dataset import InstructionSection
from utils.core.texts import PromptTemplate, join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row

HUB_ID = "meta-math/MetaMathQA"
HUB_NAMES = ("metamathqa", "meta-math/metamathqa")  # lower case, as names are looked up
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{query}\n\n### Response:"
)
HELD_OUT = 500


class Config(InstructionSection):
    """MetaMathQA."""

    name: Literal["metamathqa"] = "metamathqa"

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that say otherwise than the rows, each with what is right."""
        found = super().find_conflicts()
        if set(PromptTemplate.parse(self.prompt_template or PROMPT).columns) - {"query"}:
            found["prompt_template"] = "the prompt can be made of one column: {query}"
        return found


def describe_instructions(config: Config) -> InstructionSet:
    """Answer the four questions; there is no validation split, so 500 rows are held out by their original question."""
    template = PromptTemplate.parse(config.prompt_template or PROMPT)
    own_prompt = config.prompt_template is None

    def ask(question: str) -> Example:
        prompt = template.render({"query": question})
        return Example(prompt=prompt, question=question, user_turn=question if own_prompt else "")

    def read_row(row: Row) -> Example:
        asked, answer = ask(read_text(row, "query")), read_text(row, "response")
        answer = answer if own_prompt else join_answer(asked.prompt, answer)
        return Example(asked.prompt, answer, asked.question, asked.user_turn)

    return InstructionSet(
        path=config.path or HUB_ID,
        subset=config.subset,
        revision=config.revision,
        read_row=read_row,
        ask=ask,
        columns=("query", "response"),
        read_prompt=lambda row: ask(read_text(row, "query")),
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
