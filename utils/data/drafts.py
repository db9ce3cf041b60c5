"""Renders examples as text, as chats or prompt-answer pairs, and escapes special tokens."""

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

SEVERAL_ROWS = "written as several rows, as the chat template writes earlier turns differently once another follows"
_TEXTS = ("prompt", "answer", "user_turn", "context", "messages", "tools")
"""Fields of an example that become tokens."""


@dataclass(frozen=True)
class Draft:
    """An example as text, before tokenization."""

    segments: list[Segment]
    chat: bool
    context: str = ""
    """The part of the first prompt to cut if it is too long; empty: its middle."""
    untrained_turns: int = 0
    ended: bool = False
    """Whether the answer already includes its end."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drafter:
    """Renders examples as text, in the same way for training, evaluation and inference."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    truncation: Literal["keep_answer", "cut_answer", "drop", "error"] = "keep_answer"
    """What to do with longer rows. With drop and error, and keep_answer if the answer does not fit, they are marked
    `too_long` and not cut."""
    as_chat: bool = False
    system_prompt: str | None = None
    """A system turn for every chat that has none."""
    train_on_prompt: bool = False
    split_long: bool = False
    length_key: str = "sft.max_length"
    """Key of the setting that max_length comes from."""
    escape_special: bool = False
    """Whether to encode special tokens in a row's own text as ordinary characters."""

    @cached_property
    def texts(self) -> TextTokens:
        """Tokenizer of texts."""
        return TextTokens(self.tokenizer)

    @cached_property
    def chat(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer)

    def draft(self, example: Example) -> list[Draft] | RowError:
        """Render an example with its answer: one draft per resulting row, or why it is unusable."""
        try:
            example, notes = self.resolve_special(example)
            turns = self._turns(example)
            return self._draft_chat(example, turns, notes) if turns else [self._draft_plain(example, notes)]
        except RowError as error:
            return error

    def draft_prompt(self, example: Example) -> Draft:
        """Render the prompt that an answer is generated from."""
        example, _ = self.resolve_special(example)
        turns = self._turns(example)
        if not turns:
            return Draft([Segment(example.prompt, "", False)], chat=False, context=example.context)
        history, _ = self.chat.abilities.adapt(turns, example.tools)
        history = history[:-1] if history[-1]["role"] == "assistant" else history
        context = "" if example.messages else example.context
        return Draft(self.chat.render(history, example.tools, open_ended=True)[-1], chat=True, context=context)

    def resolve_special(self, example: Example) -> tuple[Example, tuple[str, ...]]:
        """Escape special tokens in a row's own text if `escape_special` is set, with a note for each kind found."""
        bare = self._strip_end(example.answer)
        end = example.answer[len(bare) :]  # an end token that the answer already has is not part of the row's text
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
        """Ids of the tokens that end an answer: the end of text, and the end of an assistant turn."""
        found: list[int | None] = [self.tokenizer.eos_token_id]
        try:
            found += [self.chat.end_of_turn, self.chat.end_of_call]
        except ModelError:  # no usable chat template: reported when a chat is encoded
            if self.as_chat:
                raise
        return tuple(index for index in dict.fromkeys(found) if index is not None)

    @cached_property
    def _end_texts(self) -> tuple[str, ...]:
        """The tokens that end an answer, as strings."""
        try:
            ids = self.stop_token_ids
        except ModelError:  # reported when a chat is encoded
            ids = () if self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)
        return tuple(str(self.tokenizer.convert_ids_to_tokens(index)) for index in ids)

    def _turns(self, example: Example) -> list[Turn]:
        """Return the conversation, with the run's system turn; empty for a plain prompt."""
        turns: list[Turn] = [
            {**turn, "content": self._strip_end(turn["content"])} if turn["role"] == "assistant" else turn
            for turn in example.messages
        ]
        if not turns and self.as_chat and not example.plain:
            turns = [{"role": "user", "content": example.user_turn or example.prompt}]
            if answer := self._strip_end(example.answer).removeprefix(" "):
                turns.append({"role": "assistant", "content": answer})
        if turns and self.system_prompt is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        return turns

    def _strip_end(self, answer: str) -> str:
        """Return an answer without an end token that its author wrote."""
        end = next((end for end in self._end_texts if answer.rstrip().endswith(end)), "")
        return answer.rstrip().removesuffix(end) if end else answer

    def _draft_plain(self, example: Example, notes: tuple[str, ...]) -> Draft:
        bare = self._strip_end(example.answer)
        # An end other than the tokenizer's own end-of-text is kept as written, and no second one is appended.
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
        renderings = self.chat.render(turns, example.tools)
        kept = [rendering for rendering in renderings if any(segment.trained for segment in rendering)]
        if self.train_on_prompt or not kept:  # the last one has every turn
            kept = renderings[-1:]
        num_trained = sum(segment.trained for rendering in kept for segment in rendering)
        notes = (*notes, *adapted, *((SEVERAL_ROWS,) if len(kept) > 1 else ()))
        context = "" if example.messages else example.context
        drafts = [Draft(rendering, chat=True, context=context) for rendering in kept]
        drafts[-1] = replace(drafts[-1], untrained_turns=sum(map(is_trained, turns)) - num_trained, notes=notes)
        return drafts


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(each, change) for key, each in value.items()}
    return type(value)(_map_texts(each, change) for each in value) if isinstance(value, (list, tuple)) else value
