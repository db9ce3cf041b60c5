"""How rows become prompt-answer pairs or conversations: formats of custom rows, and datasets of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

from utils.config.sections.dataset import InstructionSection
from utils.core.texts import PromptTemplate, RowError, describe_kind, join_answer, read_text
from utils.data.conversations import (
    build_chat,
    first_request,
    open_chat,
    read_context,
    read_conversation,
    read_tools,
)
from utils.data.dataset import Example, Row

ANSWER_COLUMNS = ("answer", "completion", "output", "response")
"""Columns where a template's answer is looked for if dataset.answer_column is null."""

_ALPACA_HEAD = "Below is an instruction that describes a task"
_ALPACA_TAIL = "Write a response that appropriately completes the request.\n\n"
ALPACA = f"{_ALPACA_HEAD}. {_ALPACA_TAIL}### Instruction:\n{{instruction}}\n\n### Response:"
ALPACA_WITH_INPUT = (
    f"{_ALPACA_HEAD}, paired with an input that provides further context. {_ALPACA_TAIL}"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
"""From Taori et al. 2023 (Stanford Alpaca), train.py."""


class QuestionSection(InstructionSection):
    """The `dataset:` section of a dataset whose prompt is built from one column, the question."""

    OWN_PROMPT: ClassVar[str]
    """The dataset's own prompt, over that column."""

    def find_conflicts(self) -> dict[str, str]:
        """Return keys that contradict the rows, each with the correct setting."""
        found = super().find_conflicts()
        [column] = PromptTemplate.parse(self.OWN_PROMPT).columns
        if set(self.template.columns) - {column}:
            found["prompt_template"] = f"the prompt can be made of one column: {{{column}}}"
        return found

    @property
    def template(self) -> PromptTemplate:
        """The run's prompt, else the dataset's own."""
        return _parse(self.prompt_template or self.OWN_PROMPT)

    def ask(self, question: str) -> Example:
        """Build the prompt of a question; with the dataset's own prompt, a chat's user turn is the bare question."""
        prompt = self.template.render(dict.fromkeys(self.template.columns, question))
        return Example(prompt, question=question, user_turn="" if self.prompt_template else question)


_parse = cache(PromptTemplate.parse)  # called for every row


@dataclass(frozen=True)
class Format:
    """How the rows of one format are read; the fields are those of InstructionSet."""

    read_row: Callable[[Row], Example]
    ask: Callable[[str], Example] | None
    columns: tuple[str, ...]
    read_prompt: Callable[[Row], Example]
    prompt_columns: tuple[str, ...]
    """The columns that a row without an answer must have."""
    stop: tuple[str, ...] = ()
    group: Callable[[Row], str] | None = None


def template_format(template: str, answer_column: str) -> Format:
    """Rows whose prompt is a template over columns, with the answer in another column."""
    parsed = PromptTemplate.parse(template)
    columns = parsed.columns

    def read(row: Row, answer: str | None) -> Example:
        prompt = parsed.render(row)
        only = row.get(columns[0]) if len(columns) == 1 else None
        return Example(prompt, "" if answer is None else join_answer(prompt, answer), "" if only is None else str(only))

    def read_prompt(row: Row) -> Example:
        return read(row, None)

    def read_row(row: Row) -> Example:
        return read(row, read_text(row, answer_column))

    def ask(question: str) -> Example:
        return Example(parsed.render({parsed.columns[0]: question}), question=question)

    single = ask if len(parsed.columns) == 1 else None
    return Format(read_row, single, (*parsed.columns, answer_column), read_prompt, parsed.columns)


def prompt_completion_format(answer_column: str | None, roles: Mapping[str, str], as_chat: bool) -> Format:
    """Rows with a prompt and the completion that directly follows it: texts, or lists of turns."""
    completion = answer_column or "completion"

    def read_row(row: Row) -> Example:
        _refuse_bad_answer(row)
        if isinstance(row.get("prompt"), list) or isinstance(row.get(completion), list):
            return build_chat(read_conversation(row, "prompt", roles, completion))
        prompt = read_text(row, "prompt")
        example = Example(prompt, read_text(row, completion), question=prompt)
        return _in_chat(row, example) if as_chat else example

    def read_prompt(row: Row) -> Example:
        if isinstance(row.get("prompt"), list):
            return open_chat(read_conversation(row, "prompt", roles))
        asked = ask(read_text(row, "prompt"))
        return _in_chat(row, asked) if as_chat else asked

    def ask(question: str) -> Example:
        return Example(question, question=question)

    return Format(read_row, ask, ("prompt", completion), read_prompt, ("prompt",))


def conversations_format(column: str, roles: Mapping[str, str]) -> Format:
    """Rows that are conversations of {"role", "content"} or {"from", "value"}."""

    def read_row(row: Row) -> Example:
        _refuse_bad_answer(row)
        return build_chat(read_conversation(row, column, roles))

    return Format(
        read_row=read_row,
        ask=lambda question: Example(question=question, messages=({"role": "user", "content": question},)),
        columns=(column,),
        read_prompt=lambda row: open_chat(read_conversation(row, column, roles)),
        prompt_columns=(column,),
        group=lambda row: first_request(read_conversation(row, column, roles).turns),
    )


def alpaca_format(as_chat: bool) -> Format:
    """Rows with instruction, output and optionally input, system and history."""
    plain, with_input = PromptTemplate.parse(ALPACA), PromptTemplate.parse(ALPACA_WITH_INPUT)

    def read_bare(row: Row) -> Example:
        instruction, extra = read_text(row, "instruction"), row.get("input")
        if not isinstance(extra, (str, type(None))):
            raise RowError(f"column input holds {describe_kind(extra)} instead of a text")
        if not extra or not extra.strip():
            return Example(plain.render(row), question=instruction, user_turn=instruction)
        turn = f"{instruction}\n\n{extra}"
        return Example(with_input.render(row), question=turn, user_turn=turn)

    def read_row(row: Row) -> Example:
        _refuse_bad_answer(row)
        return _after_context(row, replace(read_bare(row), answer=read_text(row, "output")), as_chat)

    def ask(question: str) -> Example:
        return Example(plain.render({"instruction": question}), question=question, user_turn=question)

    def read_prompt(row: Row) -> Example:
        return _after_context(row, read_bare(row), as_chat)

    return Format(read_row, ask, ("instruction", "output"), read_prompt, ("instruction",), stop=("### Instruction",))


def text_format(column: str) -> Format:
    """Rows of plain text, all of it trained on."""
    return Format(
        read_row=lambda row: Example(answer=read_text(row, column)),
        ask=None,
        columns=(column,),
        read_prompt=lambda row: Example(read_text(row, column)),
        prompt_columns=(column,),
    )


def find_answer_column(columns: Iterable[str], taken: Iterable[str]) -> str | None:
    """Return the only column that may hold a template's answer, or None if there are none or several."""
    found = [column for column in ANSWER_COLUMNS if column in set(columns) - set(taken)]
    return found[0] if len(found) == 1 else None


def find_formats(formats: dict[str, Format], columns: Iterable[str], *, answered: bool = True) -> list[str]:
    """Return the formats whose columns are all present; plain text counts only if nothing else does.

    For rows without answers, only the columns of the prompt count.
    """
    there = set(columns)
    found = [
        name for name, each in formats.items() if there.issuperset(each.columns if answered else each.prompt_columns)
    ]
    return [name for name in found if name != "text"] or found


def explain_preference(columns: Iterable[str]) -> str | None:
    """Explain how to train on rows whose columns are chosen and rejected, or return None for other rows."""
    if not {"chosen", "rejected"}.issubset(columns):
        return None
    return (
        "the columns chosen and rejected belong to preference tuning; set the section dpo: or reward: for it. To train "
        "on the chosen answers alone, set dataset.prompt_template and dataset.answer_column: chosen, or make them the "
        "last turn of messages"
    )


def _refuse_bad_answer(row: Row) -> None:
    """Reject an answer that its row labels as bad."""
    for column in ("label", "kto_tag"):
        value = row.get(column)
        if value is False or (isinstance(value, str) and value.strip().lower() == "false"):
            raise RowError(
                f"column {column} is false: in KTO rows this marks answers that are not to be learned; set the section "
                "kto: to learn from them"
            )


def _after_context(row: Row, example: Example, as_chat: bool) -> Example:
    """Put an Alpaca prompt after the row's system text and history, which require a chat."""
    if as_chat:
        return _in_chat(row, example)
    if context := read_context(row):
        what = "system text" if context[0]["role"] == "system" else "history"
        raise RowError(f"the row has a {what}, for which Alpaca's own prompt has no place; set dataset.as_chat: true")
    return example


def _in_chat(row: Row, example: Example) -> Example:
    """Put a prompt, and its answer if any, after the row's system text and history."""
    context, tools = read_context(row), read_tools(row)
    if not context and not tools:
        return example
    answer = [{"role": "assistant", "content": example.answer.removeprefix(" ")}] if example.answer else []
    messages = (*context, {"role": "user", "content": example.user_turn or example.prompt}, *answer)
    return replace(example, messages=messages, tools=tools)
