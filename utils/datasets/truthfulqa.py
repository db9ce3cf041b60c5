r"""TruthfulQA's generation task: questions that many people answer wrongly, each with true and false answers.

A row: {"question": "Is the moon a cheese?", "best_answer": "No", "correct_answers": ["No", "It is rock"],
    "incorrect_answers": ["Yes"]}; the authors' CSV has `Question`, `Best Answer`, `Correct Answers` and `Incorrect
    Answers`, the last two as lists separated by "; ".
The first release has 817 questions, that of January 2025 has 790; the release is stored with every score.
Source: Lin et al. 2021, arXiv:2109.07958.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from utils.core.texts import RowError, describe_kind, join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.formats import QuestionSection
from utils.data.row_files import is_local
from utils.data.rows import Rows, name_split, open_rows
from utils.data.sources import Source

HUB_ID = "truthfulqa/truthful_qa"
HUB_NAMES = ("truthfulqa", "truthfulqa/truthful_qa", "truthful_qa")
PROMPT = "Q: {question}\nA:"
RELEASES = {817: "first release", 790: "January 2025"}
"""Releases by number of questions."""
_FILE = "TruthfulQA.csv"


class Config(QuestionSection):
    """TruthfulQA's generation task."""

    name: Literal["truthfulqa"] = "truthfulqa"

    OWN_PROMPT = PROMPT


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; it has only validation rows, so training needs a file of your own."""

    def ask(question: str) -> Example:
        return replace(config.ask(question), user_turn="")

    def read_row(row: Row) -> Example:
        asked = ask(read_text(row, _find_column(row, "question")))
        judged_by = {key: _read_list(row, f"{key}_answers") for key in ("correct", "incorrect")}
        answer = join_answer(asked.prompt, read_text(row, _find_column(row, "best_answer")))
        return replace(asked, answer=answer, judged_by=judged_by)

    return InstructionSet(
        **config.locate(HUB_ID, subset="generation"),
        read_row=read_row,
        ask=ask,
        read_prompt=lambda row: ask(read_text(row, _find_column(row, "question"))),
        prompt_columns=("question",),
        metrics=("truthfulqa_accuracy", "truthfulqa_avg_max_score"),
        protocol="truthfulqa generation, zero-shot",
        generation_split="validation",
        own_prompt=True,
        max_new_tokens=128,
        greedy=True,
        combined_metrics=("truthfulqa_accuracy", "truthfulqa_avg_max_score"),
        facts={"prompts": "Q and A" if config.prompt_template is None else "dataset.prompt_template"},
        describe_count=lambda count: {"questions": count, "release": RELEASES.get(count, "unknown")},
        open_split=_open_split,
    )


def _open_split(source: Source, split: str) -> Rows | None:
    """Open the authors' CSV, alone or in a folder, as every split; other sources by their splits' names."""
    path = Path(source.path).expanduser()
    if is_local(source.path) and (path / _FILE).is_file():
        path = path / _FILE
    if not path.exists() or path.is_dir():
        return open_rows(source, split)
    name = name_split(source.path, split)
    return open_rows(Source(str(path)), split.replace(name, "train", 1))


def _find_column(row: Row, name: str) -> str:
    """Return a column's name in a row: the hub's, or the CSV's."""
    return name if name in row else name.replace("_", " ").title()


def _read_list(row: Row, name: str) -> list[str]:
    """Read a list of answers, which may be empty."""
    column = _find_column(row, name)
    value: Any = row.get(column)
    if value is None and column in row:
        return []
    found = value.split(";") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise RowError(f"column {name} holds {describe_kind(value)} instead of a list of strings")
    return [each.strip() for each in found if each.strip()]
