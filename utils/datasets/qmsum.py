r"""QMSum: questions about meetings, each answered in a few sentences.

A row of LongBench's qmsum: {"input": "What about the budget?", "context": "Ann: We have ...", "answers": ["Ann
    ..."]}; a row of the authors' files is a meeting: {"meeting_transcripts": [{"speaker": "Ann", "content": "We have
    ..."}], "general_query_list": [{"query": "Sum it up.", "answer": "..."}], "specific_query_list": [...]}.
LongBench's 200 rows are from the authors' test split.
Source: Zhong et al. 2021, arXiv:2104.05938.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from utils.config.sections.dataset import InstructionSection
from utils.core.errors import DataError
from utils.core.texts import RowError, describe_kind, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.row_files import is_local, is_row_file
from utils.data.rows import DerivedTable, Rows, Table, cut_rows, join_tables, name_split, open_rows
from utils.data.sources import Source, find_files
from utils.datasets.longbench import load_prompts, read_longbench_prompt, read_longbench_row
from utils.datasets.longbench_rows import MIRROR, open_longbench

HUB_ID = MIRROR
HUB_NAMES = ("qmsum",)
_NAME = "qmsum"
_QUERIES = ("general_query_list", "specific_query_list")
_TRANSCRIPT = "meeting_transcripts"


class Config(InstructionSection):
    """QMSum, as LongBench's rows or as the authors' meetings."""

    name: Literal["qmsum"] = "qmsum"
    prompts_file: str | None = None
    """LongBench's own prompts, its config/dataset2prompt.json; null: our own prompt."""
    validation_split: str | None = "validation"
    """Split to evaluate the loss on; null: rows held out by validation_size."""


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; a meeting's queries stay together when rows are held out."""
    prompts = load_prompts(config.prompts_file, [_NAME], config.prompt_template)

    def read_row(row: Row) -> Example:
        example = read_longbench_row({**row, "dataset": _NAME}, prompts)
        return replace(example, judged_by=example.answer.strip())

    return InstructionSet(
        **config.locate(HUB_ID),
        read_row=read_row,
        read_prompt=lambda row: read_longbench_prompt({**row, "dataset": _NAME}, prompts),
        prompt_columns=("context", "input"),
        ask=None,
        metrics=("rouge_l",),
        protocol="qmsum zero-shot",
        columns=("context",),
        generation_split="test",
        group=lambda row: read_text(row, "context"),
        identify=lambda row: str(row.get("_id") or ""),
        own_prompt=True,
        max_new_tokens=512,
        greedy=True,
        official_truncation=True,
        combined_metrics=("rouge_l",),
        facts=prompts.facts,
        open_split=_open_split,
    )


def _open_split(source: Source, split: str) -> Rows | None:
    """Open LongBench's rows, or a file of meetings, which is both the train and the test split."""
    if not is_local(source.path) or not _holds_meetings(source):
        return open_longbench(source, [_NAME], split)
    name = name_split(source.path, split)
    rows = open_rows(source, "train" if name == "test" and is_row_file(source.path) else name)
    return rows and cut_rows(join_tables([_list_queries(table) for table in rows.tables]), split)


def _holds_meetings(source: Source) -> bool:
    """Return whether the source is the authors' files, or one of them, as opposed to LongBench's."""
    for name in ("train", "validation", "test"):
        files = [file for file in find_files(source, name) if file.suffix in (".jsonl", ".json")]
        if files:
            rows = open_rows(Source(str(files[0])), "train")
            return rows is not None and _TRANSCRIPT in rows.column_names()
    return False


def _list_queries(meetings: Table) -> DerivedTable:
    """Return one row per query of a table of meetings, in LongBench's columns."""
    queries: list[tuple[int, str, int]] = []  # meeting, key of the list, and number of the query in it
    for index in range(len(meetings)):
        try:
            row = meetings.read(index)
            queries += [(index, key, number) for key in _QUERIES for number in range(len(_read_list(row, key)))]
        except RowError as error:
            raise DataError(f"{meetings.place(index)}: {error}") from error

    def read(index: int, row: Row) -> Row:
        meeting, key, number = queries[index]
        asked = _read_list(row, key)[number]
        turns = [f"{read_text(turn, 'speaker')}: {read_text(turn, 'content')}" for turn in _read_list(row, _TRANSCRIPT)]
        return {
            "input": read_text(asked, "query"),
            "context": "\n".join(turns),
            "answers": [read_text(asked, "answer")],
            "_id": f"{meeting}-{key.split('_')[0]}-{number}",
        }

    origins = [meeting for meeting, _, _ in queries]
    return DerivedTable(meetings, origins, read, lambda index: ", {1} {2}".format(*queries[index]))


def _read_list(row: Row, key: str) -> list[dict[str, Any]]:
    value = row.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise RowError(f"column {key} holds {describe_kind(value)} instead of a list of objects")
    return value
