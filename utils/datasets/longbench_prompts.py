"""LongBench's prompts: wordings of our own, or the benchmark's from its dataset2prompt.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.core.errors import DataError
from utils.core.json_files import NotJsonError, load_json
from utils.core.texts import PromptTemplate

OWN_FILE = Path(__file__).with_suffix(".json")
OWN_NAME = "own wording"
_WITHOUT_INPUT = frozenset({"gov_report", "multi_news", "vcsum", "passage_count", "lcc"})
"""Subsets whose rows ask nothing of their own."""


@dataclass(frozen=True)
class Prompts:
    """Prompts by subset."""

    name: str
    """Whose they are: our own wording, or a file's name."""
    templates: dict[str, PromptTemplate]
    """Over the columns context and input."""
    digest: str
    """Hash of the wanted prompts' texts; 12 hexadecimal digits."""

    @property
    def facts(self) -> dict[str, str]:
        """Say which prompts these are, for the record."""
        return {"prompts": self.name, "prompts_hash": self.digest}


def load_prompts(file: str | None, wanted: Iterable[str]) -> Prompts:
    """Load the prompts of some subsets.

    Args:
        file: An object of prompts by subset, with {context} and {input}; None: our own wording.
        wanted: Names of subsets.

    Raises:
        DataError: The file cannot be read, lacks a subset, or a prompt has other columns than it must.
    """
    path = OWN_FILE if file is None else Path(file).expanduser()
    texts = _read_texts(path)
    templates = {}
    for subset in wanted:
        if subset not in texts:
            raise DataError(f"{path}: no prompt for {subset}; give it one, or leave it out of dataset.subsets")
        templates[subset] = _parse(path, subset, texts[subset])
    used = {subset: texts[subset] for subset in sorted(templates)}
    digest = hashlib.sha256(json.dumps(used, ensure_ascii=False).encode()).hexdigest()[:12]
    return Prompts(OWN_NAME if file is None else path.name, templates, digest)


def parse_prompt(template: str, wanted: Iterable[str]) -> Prompts:
    """Take one prompt, dataset.prompt_template, for some subsets.

    Raises:
        DataError: It lacks a column that a subset's rows need.
    """
    digest = hashlib.sha256(template.encode()).hexdigest()[:12]
    where = Path("dataset.prompt_template")
    return Prompts("dataset.prompt_template", {each: _parse(where, each, template) for each in wanted}, digest)


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
    literals = [column for _, column in template.parts if column == "context"]
    if len(literals) > 1:
        raise DataError(f"{path}: the prompt of {subset} has {{context}} twice; write it once")
    return template
