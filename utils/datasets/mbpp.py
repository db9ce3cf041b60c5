r"""MBPP: 974 short Python tasks, each described in a sentence and judged by three assertions.

A row: {"task_id": 11, "text": "Write a function to add two numbers.", "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", ...], "test_setup_code": "", "challenge_test_list": []}; in the sanitized
    version `text` is `prompt`, and `test_imports` is a list of lines.
Source: Austin et al. 2021, arXiv:2108.07732; prompts are lm-evaluation-harness's `mbpp`, with three worked tasks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from utils.core.texts import RowError, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.datasets.humaneval import ProgramSection

HUB_ID = "google-research-datasets/mbpp"
HUB_NAMES = ("mbpp", "google-research-datasets/mbpp")
_TASK = "You are an expert Python programmer, and here is your task:"
_EXAMPLES = Path(__file__).with_name("mbpp_prompt.txt")
"""Tasks 2, 3 and 4, the first rows of the dataset's split `prompt`."""


class Config(ProgramSection):
    """MBPP, or rows with its columns."""

    name: Literal["mbpp"] = "mbpp"


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; the official test rows are tasks 11 to 510."""
    instruct = config.protocol == "instruct"

    def read_prompt(row: Row) -> Example:
        task = read_text(row, "text" if "text" in row else "prompt")
        tests = "\n".join(_read_lines(row, "test_list")[:3])
        if instruct:
            asked = f"{_TASK}\n{task}\nYour code should pass these tests:\n{tests}"
            return Example(messages=({"role": "user", "content": asked},))
        asked = f"{_TASK} {task} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
        return Example(_EXAMPLES.read_bytes().decode("utf-8") + asked, plain=True)  # with the dataset's own line ends

    return InstructionSet(
        **config.locate(HUB_ID, **({} if config.path else {"subset": "full", "validation_split": "validation"})),
        read_row=lambda row: _read_row(row, read_prompt(row), instruct),
        read_prompt=read_prompt,
        ask=None,
        columns=("test_list",),
        prompt_columns=("text", "test_list"),
        metrics=("pass_at_1",),
        protocol=f"mbpp {config.protocol}",
        shots=0 if instruct else 3,
        generation_split="test",
        identify=lambda row: str(row.get("task_id") or ""),
        stop=() if instruct else ("[DONE]",),
        own_prompt=True,
        max_new_tokens=1024 if instruct else 256,
        greedy=True,
        chat_exempt=not instruct,
    )


def _read_row(row: Row, asked: Example, instruct: bool) -> Example:
    setup = row.get("test_setup_code") or "\n".join(_read_lines(row, "test_imports"))
    judged_by = {"before": f"{setup}\n" if setup else "", "tests": "\n".join(_read_lines(row, "test_list"))}
    if instruct:
        return replace(asked, judged_by={**judged_by, "fenced": True})
    code = row.get("code")
    return replace(asked, answer=f"{code}\n[DONE]" if isinstance(code, str) else "", judged_by=judged_by)


def _read_lines(row: Row, column: str) -> list[str]:
    lines = row.get(column) or []
    if not isinstance(lines, list) or not all(isinstance(each, str) for each in lines):
        raise RowError(f"column {column} is not a list of lines")
    return lines
