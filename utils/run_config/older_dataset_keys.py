"""Keys for columns and splits of a dataset that defines its own: accepted if they agree, otherwise rejected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from utils.config.document import Document, KeyPath
from utils.config.section import Section
from utils.config.sections.dataset import ClassificationSection, InstructionSection
from utils.data.dataset import as_columns, describe_classification, describe_instructions
from utils.data.formats import ANSWER_COLUMNS
from utils.run_config.older_table import COLUMN_KEYS, SPLIT_KEYS

_PLACEHOLDER = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")


@dataclass(frozen=True)
class OwnColumns:
    """A dataset's own columns and splits, and the document's `dataset:` section."""

    section: type[Section]
    written: dict[str, Any]
    """The `dataset:` section."""
    prompt: frozenset[str] = frozenset()
    """Columns of the prompt; empty if the document chooses them."""
    answers: frozenset[str] = frozenset()
    splits: frozenset[str] = frozenset()

    @classmethod
    def of(cls, section: type[Section], document: Document, causal: bool) -> OwnColumns:
        """Describe the document's dataset, as far as its still unvalidated values can be read.

        `section` is the class of `dataset:`; `causal` says whether its rows are prompts with answers.
        """
        written: Any = {**document.get(("dataset",), {})}
        kept = {key: value for key, value in written.items() if key in ("name", "subset", "path")}
        try:
            config: Any = section.model_validate(kept)
        except ValidationError:
            return cls(section, written)
        if not causal and issubclass(section, ClassificationSection) and not issubclass(section, InstructionSection):
            spec = describe_classification(config)
            tests = (submission.split for submission in spec.submissions)
            splits = frozenset(each for each in (spec.train_split, *spec.eval_splits.values(), *tests) if each)
            return cls(section, written, splits=splits)
        if causal and issubclass(section, InstructionSection) and "text_column" not in section.model_fields:
            found = describe_instructions(config)
            prompt = frozenset(found.prompt_columns)
            splits = frozenset(each for each in (found.train_split, found.generation_split) if each)
            return cls(section, written, prompt, frozenset(found.columns) - prompt, splits)
        return cls(section, written)

    def agreeing(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys that match the dataset anyway, each with the sentence for the notice."""
        for key, allowed in self._expected():
            if set(as_columns(self.written[key], ())) <= allowed:
                yield ("dataset", key), "this set has its own; left out"

    def conflicting(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys that contradict the dataset, each with the correct setting."""
        for key, allowed in self._expected():
            if not set(as_columns(self.written[key], ())) <= allowed:
                own = ", ".join(sorted(allowed)) or "none of the kind"
                remedy = "dataset.name: custom with dataset.path reads other rows"
                yield ("dataset", key), f"this set has its own ({own}); leave the key out, or {remedy}"

    @property
    def answer(self) -> str | None:
        """The column of the answer, if the prompt's template ends with it."""
        template = self.written.get("prompt_template")
        names = _PLACEHOLDER.findall(template) if isinstance(template, str) else []
        known = self.answers or (self.written.get("answer_column"), *ANSWER_COLUMNS)
        is_last = len(names) > 1 and str(template).rstrip().endswith(f"{{{names[-1]}}}")
        return names[-1] if is_last and names[-1] in known else None

    @property
    def cut_prompt(self) -> str | None:
        """The template up to the answer, or None if it does not contain the answer."""
        if self.answer is None:
            return None
        return str(self.written["prompt_template"]).rstrip().removesuffix(f"{{{self.answer}}}").rstrip(" ")

    def _expected(self) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield written keys that are not the section's, each with the names it may have."""
        for key, value in [*self.written.items()]:
            if key in self.section.model_fields or not _is_names(value):
                continue
            if key in COLUMN_KEYS and self.prompt:
                yield key, self.prompt if COLUMN_KEYS[key] else self.answers
            elif key in SPLIT_KEYS and self.splits and key not in self.section.ALIASES:
                yield key, self.splits


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
