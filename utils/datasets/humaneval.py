r"""HumanEval: 164 Python functions to complete from their signature and docstring, judged by tests.

A row: {"task_id": "HumanEval/0", "prompt": "def two():\n    \"\"\"Give 2.\"\"\"\n", "entry_point": "two",
    "canonical_solution": "    return 2\n", "test": "def check(candidate):\n    assert candidate() == 2\n"}.
Source: Chen et al. 2021, arXiv:2107.03374; programs are assembled as in its own evaluator (openai/human-eval).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from utils.config.sections.dataset import InstructionSection
from utils.core.texts import read_text
from utils.data.dataset import Example, InstructionSet, Row

HUB_ID = "openai/openai_humaneval"
HUB_NAMES = ("humaneval", "openai_humaneval", "openai/openai_humaneval")
_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


class ProgramSection(InstructionSection):
    """The `dataset:` section of a dataset whose answers are programs."""

    protocol: Literal["completion", "instruct"] = "completion"
    """completion: the model completes the code, as in the published evaluations. instruct: a chat model is asked for
    the program, and the first code block of its answer counts."""

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that have no effect here, each with the correct setting."""
        found = super().find_conflicts()
        if self.prompt_template is not None:
            found["prompt_template"] = "the prompts are the set's own; leave it out"
        return found


class Config(ProgramSection):
    """HumanEval, or rows with its columns."""

    name: Literal["humaneval"] = "humaneval"


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; it has only test rows, so training needs a file of your own."""
    instruct = config.protocol == "instruct"

    def read_prompt(row: Row) -> Example:
        head = read_text(row, "prompt")
        if instruct:
            return Example(messages=({"role": "user", "content": ask_for_function(head)},))
        return Example(head, plain=True)

    def read_row(row: Row) -> Example:
        name, answer = read_text(row, "entry_point"), row.get("canonical_solution")
        judged_by: dict[str, Any] = {"before": row["prompt"], "tests": f"{read_text(row, 'test')}\ncheck({name})"}
        if instruct:
            return replace(read_prompt(row), judged_by={**judged_by, "fenced": True, "entry_point": name})
        return replace(read_prompt(row), answer=answer if isinstance(answer, str) else "", judged_by=judged_by)

    return InstructionSet(
        **config.locate(HUB_ID),
        read_row=read_row,
        read_prompt=read_prompt,
        ask=None,
        columns=("prompt", "test", "entry_point"),
        prompt_columns=("prompt",),
        metrics=("pass_at_1",),
        protocol=f"humaneval {config.protocol}, zero-shot",
        generation_split="test",
        identify=lambda row: str(row.get("task_id") or ""),
        stop=() if instruct else _STOP,
        own_prompt=True,
        max_new_tokens=1024,
        greedy=True,
        chat_exempt=not instruct,
    )


def ask_for_function(head: str) -> str:
    """Return the request to a chat model, as in lm-evaluation-harness's humaneval_instruct."""
    task = "Write a solution to the following problem and make sure that it passes the tests:"
    return f"{task}\n```python\n{head}\n```\n"
