r"""LongBench: 4,750 questions about long texts in 21 subsets, English, Chinese and code; there are only test rows.

A row: {"input": "Who wrote it?", "context": "Passage 1: ...", "answers": ["Ann", "Ann Lee"], "length": 4012,
"dataset": "hotpotqa", "language": "en", "all_classes": null, "_id": "5f3..."}. The parquet mirror calls `input`
`question`.
To train, a part of the rows is held out by the seed, and rows about one context stay together.
Source: Bai et al. 2023, arXiv:2308.14508; protocol and scores are those of its repository (LongBench/pred.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from utils.config.problems import suggest
from utils.config.sections.dataset import InstructionSection
from utils.core.json_files import NotJsonError, parse_json
from utils.core.texts import RowError, describe_kind, join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.data.sources import Source
from utils.datasets.longbench_prompts import Prompts, load_prompts, parse_prompt
from utils.datasets.longbench_rows import MIRROR, open_longbench
from utils.datasets.longbench_subsets import SUBSETS, Subset, find_subset

HUB_ID = MIRROR
HUB_NAMES = ("longbench", "thudm/longbench", "zai-org/longbench", "xnhyacinth/longbench")
HELD_OUT = 0.1


class Config(InstructionSection):
    """LongBench, or rows with its columns."""

    ALIASES: ClassVar[dict[str, str]] = {**InstructionSection.ALIASES, "train_datasets": "subsets"}

    name: Literal["longbench"] = "longbench"
    subsets: Literal["all"] | list[str] = "all"
    """Names of subsets, [qasper, hotpotqa]; also of LongBench-E, hotpotqa_e."""
    prompts_file: str | None = None
    """The benchmark's own prompts, its config/dataset2prompt.json; null: wordings of our own."""
    train_split: str = "test"
    """The only split there is; a part of it may be cut out: `test[:500]`."""

    @field_validator("subsets", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower() == "all":
            return "all"
        if isinstance(value, str):
            return [name.strip() for name in value.strip("[] ").split(",") if name.strip()]
        return value

    @field_validator("subsets")
    @classmethod
    def _known_subsets(cls, value: Literal["all"] | list[str]) -> Literal["all"] | list[str]:
        if not value:
            raise ValueError("names no subset; write all, or a list such as [qasper, hotpotqa]")
        if value != "all":
            for name in value:
                _require_known(name)
            if len(set(value)) < len(value):
                raise ValueError("names a subset twice")
        return value

    @field_validator("subset")
    @classmethod
    def _known_subset(cls, value: str | None) -> str | None:
        if value is not None:
            _require_known(value)
        return value

    @property
    def wanted(self) -> tuple[str, ...]:
        """The subsets' names."""
        if self.subset is not None:
            return (self.subset,)
        return tuple(SUBSETS) if self.subsets == "all" else tuple(self.subsets)

    def find_conflicts(self) -> dict[str, str]:
        """Find keys that say otherwise than others, each with what is right."""
        found = super().find_conflicts()
        if self.subset is not None and "subsets" in self.model_fields_set:
            found["subset"] = "dataset.subsets says which; set one of the two"
        if self.prompts_file is not None and self.prompt_template is not None:
            found["prompts_file"] = "dataset.prompt_template is the prompt of all subsets; set one of the two"
        return found


def describe_instructions(config: Config) -> InstructionSet:
    """Answer the four questions; where several subsets are wanted, every row is asked and judged by its own's rules."""
    names = config.wanted
    bases = [find_subset(name) for name in names]
    prompts = _choose_prompts(config, [each.name for each in bases])
    source = Source(config.path or HUB_ID, None, config.revision)
    held_out = HELD_OUT if config.validation_size is None else config.validation_size
    only = bases[0] if len(bases) == 1 else None
    facts: dict[str, Any] = {**prompts.facts, "subsets": list(names), **({"category": only.category} if only else {})}
    if held_out:
        facts["held_out"] = {"size": held_out, "by": "seed, rows of one context together"}
    return InstructionSet(
        path=source.path,
        revision=config.revision,
        read_row=lambda row: read_longbench_row(row, prompts),
        read_prompt=lambda row: read_longbench_prompt({**row, "dataset": only.name} if only else row, prompts),
        prompt_columns=("context", "input") if only else ("context", "input", "dataset"),
        ask=None,
        metrics=("longbench_score",),
        protocol="longbench official, zero-shot",
        columns=("context",),
        train_split=config.train_split,
        validation_split=config.validation_split,
        validation_size=held_out,
        generation_split=None if held_out else "test",
        group=lambda row: read_text(row, "context") or read_input(row),
        identify=_find_id,
        stop=("\n",) if only and only.name == "samsum" else (),
        own_prompt=True,
        max_new_tokens=max(each.max_new_tokens for each in bases),
        min_new_tokens=1 if only and only.name == "samsum" else 0,
        greedy=True,
        chat_exempt=only is not None and only.chat_exempt,
        official_truncation=True,
        facts=facts,
        open_split=lambda source, split: open_longbench(source, names, split),
    )


def expand(config: Config) -> list[tuple[str, Config]]:
    """Give the sets as which these subsets are scored: each by itself, and all of its rows."""
    return [
        (f"longbench_{name}", config.model_copy(update={"subset": name, "validation_size": 0}))
        for name in config.wanted
    ]


def read_longbench_row(row: Row, prompts: Prompts) -> Example:
    """Make an example of a row, with its subset's prompt.

    Raises:
        RowError: A column is missing or holds something else than it should.
    """
    subset = _find_subset(row)
    context, asked, answers = read_text(row, "context"), read_input(row), read_answers(row)
    prompt = prompts.templates[subset.name].render({"context": context, "input": asked})
    answer = answers[0] if subset.language == "zh" else join_answer(prompt, answers[0])
    judged_by = {"subset": subset.name, "answers": answers, "all_classes": _read_classes(row)}
    return Example(
        prompt,
        answer if answers[0].strip() else "",
        question=asked.strip(),
        judged_by=judged_by,
        plain=subset.chat_exempt,
        context=context,
    )


def read_longbench_prompt(row: Row, prompts: Prompts) -> Example:
    """Make the prompt of a row that needs no answers.

    Raises:
        RowError: A column is missing or holds something else than it should.
    """
    return replace(read_longbench_row({**row, "answers": []}, prompts), judged_by="")


def read_input(row: Row) -> str:
    """Read what is asked about the context: the column `input`, or the mirror's `question`; it may be empty."""
    if row.get("input") is None and isinstance(row.get("question"), str):
        return str(row["question"])
    return read_text(row, "input")


def read_answers(row: Row) -> list[str]:
    """Read the answers, any of which is right; one that is empty where there is none.

    Raises:
        RowError: They are no list of texts.
    """
    answers = row.get("answers")
    if isinstance(answers, str):
        answers = _read_list(answers)
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        raise RowError(f"column answers holds {describe_kind(answers)} instead of a list of texts")
    return answers or [""]


def _read_list(text: str) -> list[Any]:
    """Read a list that is written as a text, or take the text as the only answer."""
    try:
        value = parse_json(text)
    except NotJsonError:
        return [text]
    return value if isinstance(value, list) else [text]


def _read_classes(row: Row) -> list[str]:
    classes = row.get("all_classes") or []
    if isinstance(classes, str):
        classes = _read_list(classes)
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
        raise RowError(f"column all_classes holds {describe_kind(classes)} instead of a list of texts")
    return classes


def _find_subset(row: Row) -> Subset:
    name = read_text(row, "dataset")
    try:
        return find_subset(name)
    except KeyError as error:
        raise RowError(f"column dataset: no subset of LongBench is called {name}") from error


def _find_id(row: Row) -> str:
    return str(row.get("_id") or "")


def _choose_prompts(config: Config, names: list[str]) -> Prompts:
    if config.prompt_template is not None:
        return parse_prompt(config.prompt_template, names)
    return load_prompts(config.prompts_file, names)


def _require_known(name: str) -> None:
    try:
        find_subset(name)
    except KeyError:
        raise ValueError(f"no subset of LongBench is called {name}{suggest(name, tuple(SUBSETS))}") from None
