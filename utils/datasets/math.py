r"""MATH: 12,500 competition problems of seven subjects and five levels, with solutions whose answer is boxed.

A row: {"problem": "What is $1+1$?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{2}$."}; of
    MATH-500: {"problem": ..., "solution": ..., "answer": "2", "subject": "Algebra", "level": 1, "unique_id": ...}; of
    MetaMath's files: {"instruction": ..., "output": ...} or {"query": ..., "response": ...}, with or without a type.
Source: Hendrycks et al. 2021, arXiv:2103.03874; MATH-500: Lightman et al. 2023, arXiv:2305.20050.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from utils.core.texts import RowError, join_answer, read_text, shorten_list
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.formats import QuestionSection
from utils.data.row_files import is_local, is_row_file
from utils.data.rows import Rows, cut_rows, join_tables, name_split, open_rows
from utils.data.sources import Source
from utils.datasets import metamathqa
from utils.metrics.math_expressions import find_boxed

HUB_ID = "EleutherAI/hendrycks_math"
HUB_NAMES = ("math", "eleutherai/hendrycks_math", "qwedsacf/competition_math", "hendrycks/competition_math",
             "huggingfaceh4/math-500")  # fmt: skip
SUBJECTS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
            "precalculus")  # fmt: skip
"""Configurations of the dataset on the hub, and folders of a local copy."""
PROMPT = "Problem:\n{problem}\n\nSolution:"
_QUESTIONS = ("problem", "instruction", "query", "question")
_SOLUTIONS = ("solution", "output", "response")
_EXAMPLES = Path(__file__).with_name("minerva_prompt.txt")
"""The four worked problems of Lewkowycz et al. 2022, arXiv:2206.14858, appendix D.2."""

PROTOCOLS: dict[str, dict[str, Any]] = {
    "metamath": {
        "stop": ("Question", "USER", "ASSISTANT", "Instruction", "Response"),
        "max_new_tokens": 2048,
        "metrics": ("math_metamath",),
        "protocol": "MetaMath's eval_math.py",
    },
    "minerva_math": {
        "stop": ("Problem:",),
        "max_new_tokens": 256,
        "metrics": ("math_minerva", "math_verify"),
        "protocol": "lm-evaluation-harness minerva_math 3.1",
        "shots": 4,
    },
}
"""What a public evaluation fixes besides its prompt."""


class Config(QuestionSection):
    """MATH, MATH-500, or rows with their columns or those of MetaMath's files."""

    name: Literal["math"] = "math"
    protocol: Literal["metamath", "minerva_math"] | None = None
    """Prompt and scoring of evaluations: as in MetaMath's eval_math.py, or in lm-evaluation-harness's minerva_math
    (4-shot); null: with the run's own prompt."""

    OWN_PROMPT = PROMPT

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that contradict others, each with the correct setting."""
        found = super().find_conflicts()
        if self.protocol is not None and self.prompt_template is not None:
            found["protocol"] = "dataset.prompt_template is another prompt than the protocol's; set one of the two"
        return found


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; a protocol has its own prompt, regardless of the run's."""

    def ask(problem: str) -> Example:
        return config.ask(problem) if config.protocol is None else _ask_by_protocol(config.protocol, problem)

    def read_row(row: Row) -> Example:
        asked = ask(_read(row, _QUESTIONS))
        solution = _read(row, _SOLUTIONS, default=str(row.get("answer") or ""))
        gold = solution if find_boxed(solution) is not None else str(row.get("answer") or "")
        if not gold:
            raise RowError("the solution has no \\boxed answer, and there is no column answer")
        answer = join_answer(asked.prompt, solution)
        return replace(asked, answer=answer, judged_by=gold.strip(), groups=_read_groups(row))

    return InstructionSet(
        **config.locate(HUB_ID),
        read_row=read_row,
        ask=ask,
        read_prompt=lambda row: ask(_read(row, _QUESTIONS)),
        prompt_columns=("problem",),
        generation_split="test",
        identify=lambda row: str(row.get("unique_id") or ""),
        open_split=_open_split,
        **_describe_asking(config),
    )


def _describe_asking(config: Config) -> dict[str, Any]:
    if config.protocol is not None:
        return {**PROTOCOLS[config.protocol], "own_prompt": True, "greedy": True, "chat_exempt": True}
    return {
        "stop": ("Problem:",) if config.prompt_template is None and not config.as_chat else (),
        "metrics": ("math_equivalence", "math_metamath"),
        "protocol": "math zero-shot, run's own prompt",
    }


def _ask_by_protocol(name: str, problem: str) -> Example:
    if name == "metamath":
        prompt = f"{metamathqa.PROMPT.replace('{query}', problem)} Let's think step by step."
    else:
        prompt = f"{_EXAMPLES.read_text('utf-8')}{PROMPT.replace('{problem}', problem)}"
    return Example(prompt, question=problem, plain=True)


def _read(row: Row, columns: tuple[str, ...], default: str | None = None) -> str:
    for column in columns:
        if column in row:
            return read_text(row, column)
    if default:
        return default
    raise RowError(f"none of the columns {', '.join(columns)}; there are: {shorten_list(row)}")


def _read_groups(row: Row) -> tuple[tuple[str, str], ...]:
    """Return level and subject: `Level 3`, which MATH-500 calls 3, and `Algebra`."""
    level, subject = row.get("level"), row.get("subject", row.get("type"))
    found = (("level", f"Level {level}" if isinstance(level, int) else level), ("subject", subject))
    return tuple((name, value) for name, value in found if isinstance(value, str) and value)


def _open_split(source: Source, split: str) -> Rows | None:
    """Open a split of one subject, or of all subjects if each has its own configuration or folder.

    A single file is both the train and the test split.
    """
    name = name_split(source.path, split)
    if is_row_file(source.path) and name == "test":
        rows = open_rows(source, "train")
        return rows and cut_rows(rows, split)
    if is_local(source.path):
        apart = (Path(source.path).expanduser() / SUBJECTS[0]).is_dir()
    else:
        apart = source.path.lower() == HUB_ID.lower()
    if source.subset is not None or not apart:
        return open_rows(source, split)
    parts = [open_rows(replace(source, subset=subject), name) for subject in SUBJECTS]
    there = [part for part in parts if part is not None]
    tables = [table for part in there for table in part.tables]
    return cut_rows(join_tables(tables, there[0].commit), split) if tables else None
