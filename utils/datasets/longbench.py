r"""LongBench: 4,750 questions about long texts in 21 subsets, in English, Chinese and code; only test rows exist.

A row: {"input": "Who wrote it?", "context": "Passage 1: ...", "answers": ["Ann", "Ann Lee"], "length": 4012,
    "dataset": "hotpotqa", "language": "en", "all_classes": null, "_id": "5f3..."}. The parquet mirror calls
    `input` `question`.
For training, a part of the rows is held out with the seed, keeping rows about one context together.
Source: Bai et al. 2023, arXiv:2308.14508; protocol and scores as in its repository (LongBench/pred.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from utils.config.error_messages import suggest
from utils.config.sections.dataset import InstructionSection
from utils.core.errors import DataError
from utils.core.json_files import NotJsonError, load_json, parse_json
from utils.core.texts import PromptTemplate, RowError, describe_kind, join_answer, read_text
from utils.data.dataset import Example, InstructionSet, Row
from utils.datasets.longbench_rows import MIRROR, SUBSETS, Subset, find_subset, open_longbench

HUB_ID = MIRROR
HUB_NAMES = ("longbench", "thudm/longbench", "zai-org/longbench", "xnhyacinth/longbench")
HELD_OUT = 0.1
OWN_FILE = Path(__file__).with_name("longbench_prompts.json")
OWN_NAME = "own wording"
_WITHOUT_INPUT = frozenset({"gov_report", "multi_news", "vcsum", "passage_count", "lcc"})
"""Subsets whose rows have no question."""


class Config(InstructionSection):
    """LongBench, or rows with its columns."""

    ALIASES: ClassVar[dict[str, str]] = {**InstructionSection.ALIASES, "train_datasets": "subsets"}

    name: Literal["longbench"] = "longbench"
    subsets: Literal["all"] | list[str] = "all"
    """Names of subsets, [qasper, hotpotqa]; also those of LongBench-E, hotpotqa_e."""
    prompts_file: str | None = None
    """The benchmark's own prompts, its config/dataset2prompt.json; null: our own prompts."""
    train_split: str = "test"
    """The only split, or part of it: `test[:500]`."""

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
    def _check_subsets(cls, value: Literal["all"] | list[str]) -> Literal["all"] | list[str]:
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
    def _check_subset(cls, value: str | None) -> str | None:
        if value is not None:
            _require_known(value)
        return value

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the subsets."""
        if self.subset is not None:
            return (self.subset,)
        return tuple(SUBSETS) if self.subsets == "all" else tuple(self.subsets)

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that contradict others, each with the correct setting."""
        found = super().find_conflicts()
        if self.subset is not None and "subsets" in self.model_fields_set:
            found["subset"] = "dataset.subsets says which; set one of the two"
        if self.prompts_file is not None and self.prompt_template is not None:
            found["prompts_file"] = "dataset.prompt_template is the prompt of all subsets; set one of the two"
        return found


def describe_instructions(config: Config) -> InstructionSet:
    """Describe the dataset; with several subsets, every row is asked and scored by its own subset's rules."""
    names = config.wanted
    bases = [find_subset(name) for name in names]
    prompts = load_prompts(config.prompts_file, [each.name for each in bases], config.prompt_template)
    held_out = HELD_OUT if config.validation_size is None else config.validation_size
    only = bases[0] if len(bases) == 1 else None
    facts: dict[str, Any] = {**prompts.facts, "subsets": list(names), **({"category": only.category} if only else {})}
    if held_out:
        facts["held_out"] = {"size": held_out, "by": "seed, rows of one context together"}
    return InstructionSet(
        **config.locate(HUB_ID, validation_size=HELD_OUT),
        read_row=lambda row: read_longbench_row(row, prompts),
        read_prompt=lambda row: read_longbench_prompt({**row, "dataset": only.name} if only else row, prompts),
        prompt_columns=("context", "input") if only else ("context", "input", "dataset"),
        ask=None,
        metrics=("longbench_score",),
        protocol="longbench official, zero-shot",
        columns=("context",),
        generation_split=None if held_out else "test",
        group=lambda row: read_text(row, "context") or read_input(row),
        identify=lambda row: str(row.get("_id") or ""),
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
    """Return the sets as which these subsets are scored: each separately, with all of its rows."""
    return [
        (f"longbench_{name}", config.model_copy(update={"subset": name, "validation_size": 0}))
        for name in config.wanted
    ]


def read_longbench_row(row: Row, prompts: Prompts) -> Example:
    """Build an example from a row, with its subset's prompt."""
    subset = _find_subset(row)
    context, asked, answers = read_text(row, "context"), read_input(row), read_answers(row)
    prompt = prompts.templates[subset.name].render({"context": context, "input": asked})
    answer = answers[0] if subset.language == "zh" else join_answer(prompt, answers[0])
    judged_by = {
        "subset": subset.name,
        "answers": answers,
        "all_classes": _read_list("all_classes", row.get("all_classes") or []),
    }
    return Example(
        prompt,
        answer if answers[0].strip() else "",
        question=asked.strip(),
        judged_by=judged_by,
        plain=subset.chat_exempt,
        context=context,
    )


def read_longbench_prompt(row: Row, prompts: Prompts) -> Example:
    """Build the prompt of a row that needs no answers."""
    return replace(read_longbench_row({**row, "answers": []}, prompts), judged_by="")


def read_input(row: Row) -> str:
    """Read the question about the context: the column `input`, or the mirror's `question`; it may be empty."""
    if row.get("input") is None and isinstance(row.get("question"), str):
        return str(row["question"])
    return read_text(row, "input")


def read_answers(row: Row) -> list[str]:
    """Read the correct answers, or [""] if there are none."""
    return _read_list("answers", row.get("answers")) or [""]


def _read_list(column: str, value: Any) -> list[str]:
    """Read a list of strings, which may be encoded as JSON; any other string is its only item."""
    if isinstance(value, str):
        try:
            read = parse_json(value)
        except NotJsonError:
            read = None
        value = read if isinstance(read, list) else [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise RowError(f"column {column} holds {describe_kind(value)} instead of a list of strings")
    return value


def _find_subset(row: Row) -> Subset:
    name = read_text(row, "dataset")
    try:
        return find_subset(name)
    except KeyError as error:
        raise RowError(f"column dataset: no subset of LongBench is called {name}") from error


def _require_known(name: str) -> None:
    try:
        find_subset(name)
    except KeyError:
        raise ValueError(f"no subset of LongBench is called {name}{suggest(name, tuple(SUBSETS))}") from None


@dataclass(frozen=True)
class Prompts:
    """Prompts by subset."""

    name: str
    """Their origin: our own wording, or a file's name."""
    templates: dict[str, PromptTemplate]
    """Templates over the columns context and input."""
    digest: str
    """Hash of the used prompts' texts; 12 hexadecimal digits."""

    @property
    def facts(self) -> dict[str, str]:
        """Name and hash of the prompts, for the record."""
        return {"prompts": self.name, "prompts_hash": self.digest}


def load_prompts(file: str | None, wanted: Iterable[str], template: str | None = None) -> Prompts:
    """Load the prompts of some subsets: one template for all, a JSON file of prompts by subset, or our own."""
    if template is not None:
        name = "dataset.prompt_template"
        return Prompts(name, {each: _parse(Path(name), each, template) for each in wanted}, _hash(template))
    path = OWN_FILE if file is None else Path(file).expanduser()
    texts = _read_texts(path)
    templates = {}
    for subset in wanted:
        if subset not in texts:
            raise DataError(f"{path}: no prompt for {subset}; give it one, or leave it out of dataset.subsets")
        templates[subset] = _parse(path, subset, texts[subset])
    used = {subset: texts[subset] for subset in sorted(templates)}
    name = OWN_NAME if file is None else path.name
    return Prompts(name, templates, _hash(json.dumps(used, ensure_ascii=False)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise DataError(f"{path}: no such file of prompts (prompts_file); paths start at the working directory")
    try:
        texts = load_json(path)
    except NotJsonError as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise DataError(f'{path}: not an object of prompts by subset, {{"qasper": "{{context}} ... {{input}}"}}')
    return texts


def _parse(path: Path, subset: str, text: str) -> PromptTemplate:
    try:
        template = PromptTemplate.parse(text)
    except ValueError as error:
        raise DataError(f"{path}: the prompt of {subset}: {error}") from error
    needed = {"context"} if subset in _WITHOUT_INPUT else {"context", "input"}
    if missing := sorted(needed - set(template.columns)):
        raise DataError(f"{path}: the prompt of {subset} lacks {{{'}, {'.join(missing)}}}, which its rows need")
    if unknown := sorted(set(template.columns) - {"context", "input"}):
        raise DataError(f"{path}: the prompt of {subset} has {{{unknown[0]}}}; it can have {{context}} and {{input}}")
    if [column for _, column in template.parts].count("context") > 1:
        raise DataError(f"{path}: the prompt of {subset} has {{context}} twice; write it once")
    return template
