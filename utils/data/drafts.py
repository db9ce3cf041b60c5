"""Writes examples as texts: turns through the chat template, or a prompt with its answer; special tokens escaped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from utils.core.errors import ModelError
from utils.core.texts import RowError, list_texts
from utils.data.chat import ChatTemplate, Segment
from utils.data.conversations import is_trained
from utils.data.dataset import Example, Turn
from utils.data.text_tokens import TextTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEVERAL_ROWS = "written as several rows, as the chat template writes earlier turns otherwise once another follows"
_TEXTS = ("prompt", "answer", "user_turn", "context", "messages", "tools")
"""Fields of an example that become tokens."""


@dataclass(frozen=True)
class Draft:
    """An example as texts, before its tokens are known."""

    segments: list[Segment]
    chat: bool
    context: str = ""
    """The part of the first prompt that alone is cut; empty: its middle is."""
    untrained_turns: int = 0
    ended: bool = False
    """The answer holds its end already."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drafter:
    """Writes examples as texts in the way in which the model is trained, evaluated and used."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    truncation: Literal["keep_answer", "cut_answer", "drop", "error"] = "keep_answer"
    """What becomes of longer rows; with drop and error, and with keep_answer where the answer does not fit, they are
    marked `too_long` and not cut."""
    as_chat: bool = False
    system_prompt: str | None = None
    """A system turn before every chat that has none."""
    train_on_prompt: bool = False
    split_long: bool = False
    length_key: str = "sft.max_length"
    """The setting that max_length is."""
    escape_special: bool = False
    """Read special tokens in a row's own text as ordinary characters."""

    @cached_property
    def texts(self) -> TextTokens:
        """Makes tokens of texts."""
        return TextTokens(self.tokenizer)

    @cached_property
    def chat(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer)

    def draft(self, example: Example) -> list[Draft] | RowError:
        """Write an example with its answer: one draft for each row that it becomes, or why it cannot be used."""
        try:
            example, notes = self.resolve_special(example)
            turns = self._turns(example)
            return self._draft_chat(example, turns, notes) if turns else [self._draft_plain(example, notes)]
        except RowError as error:
            return error

    def draft_prompt(self, example: Example) -> Draft:
        """Write what an answer is generated from."""
        example, _ = self.resolve_special(example)
        turns = self._turns(example)
        if not turns:
            return Draft([Segment(example.prompt, "", False)], chat=False, context=example.context)
        history, _ = self.chat.abilities.adapt(turns, example.tools)
        history = history[:-1] if history[-1]["role"] == "assistant" else history
        context = "" if example.messages else example.context
        return Draft(self.chat.render(history, example.tools, open_ended=True)[-1], chat=True, context=context)

    def resolve_special(self, example: Example) -> tuple[Example, tuple[str, ...]]:
        """Escape special tokens in a row's own text where that is asked for; with a note for each kind of them."""
        bare = self._bare(example.answer)
        end = example.answer[len(bare) :]  # that the answer has already is no text of the row
        own = replace(example, answer=bare)
        texts = [own.prompt, own.answer, own.user_turn, *list_texts(own.messages), *list_texts(own.tools)]
        found = sorted(set().union(*map(self.texts.find_special, texts)))
        how = "ordinary text" if self.escape_special else "special tokens"
        notes = tuple(f"with {each} in their own text, read as {how}" for each in found)
        if not found or not self.escape_special:
            return example, notes
        changed = {key: _map_texts(getattr(own, key), self.texts.escape) for key in _TEXTS}
        return replace(own, **{**changed, "answer": changed["answer"] + end}), notes

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens at which an answer ends: the end of text, and the end of an assistant's turn."""
        found: list[int | None] = [self.tokenizer.eos_token_id]
        try:
            found += [self.chat.end_of_turn, self.chat.end_of_call]
        except ModelError:  # no usable chat template: said where a chat is encoded
            if self.as_chat:
                raise
        return tuple(index for index in dict.fromkeys(found) if index is not None)

    @cached_property
    def _end_texts(self) -> tuple[str, ...]:
        """Texts of the tokens at which an answer ends."""
        try:
            ids = self.stop_token_ids
        except ModelError:  # said where a chat is encoded
            ids = () if self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)
        return tuple(str(self.tokenizer.convert_ids_to_tokens(index)) for index in ids)

    def _turns(self, example: Example) -> list[Turn]:
        """Give the conversation, with the run's system turn; empty for a plain prompt."""
        turns: list[Turn] = [
            {**turn, "content": self._bare(turn["content"])} if turn["role"] == "assistant" else turn
            for turn in example.messages
        ]
        if not turns and self.as_chat and not example.plain:
            turns = [{"role": "user", "content": example.user_turn or example.prompt}]
            if answer := self._bare(example.answer).removeprefix(" "):
                turns.append({"role": "assistant", "content": answer})
        if turns and self.system_prompt is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        return turns

    def _bare(self, answer: str) -> str:
        """Give an answer without an end that its author wrote."""
        end = next((end for end in self._end_texts if answer.rstrip().endswith(end)), "")
        return answer.rstrip().removesuffix(end) if end else answer

    def _draft_plain(self, example: Example, notes: tuple[str, ...]) -> Draft:
        bare = self._bare(example.answer)
        # An end that is not the tokenizer's own end of text stays as it is written, and no second one is put behind it.
        ended = len(bare) < len(example.answer) and example.answer != bare + self.texts.eos_text
        segment = Segment(example.prompt, example.answer if ended else bare, bool(bare.strip()))
        return Draft([segment], chat=False, context=example.context, ended=ended, notes=notes)

    def _draft_chat(self, example: Example, turns: list[Turn], notes: tuple[str, ...]) -> list[Draft]:
        if self.train_on_prompt and not all(turn.get("train", True) for turn in turns):
            raise RowError(
                "a turn is not to be trained on (weight 0), but sft.completion_only_loss: false trains on every token; "
                "leave one of them out"
            )
        turns, adapted = self.chat.abilities.adapt(turns, example.tools)
        writings = self.chat.render(turns, example.tools)
        kept = [writing for writing in writings if any(segment.trained for segment in writing)]
        if self.train_on_prompt or not kept:  # the last one holds every turn
            kept = writings[-1:]
        num_trained = sum(segment.trained for writing in kept for segment in writing)
        notes = (*notes, *adapted, *((SEVERAL_ROWS,) if len(kept) > 1 else ()))
        context = "" if example.messages else example.context
        drafts = [Draft(writing, chat=True, context=context) for writing in kept]
        drafts[-1] = replace(drafts[-1], untrained_turns=sum(map(is_trained, turns)) - num_trained, notes=notes)
        return drafts


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(each, change) for key, each in value.items()}
    return type(value)(_map_texts(each, change) for each in value) if isinstance(value, (list, tuple)) else value
