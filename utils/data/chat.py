"""The chat template: writes conversations turn by turn, so that it is known which text an assistant's turn is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from utils.data.texts import RowError
from utils.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]

_PROBE = ({"role": "user", "content": "Say a number"}, {"role": "assistant", "content": "It is 27"})
_HINT = "set model.chat_template to chatml or to a template file that writes every turn after the one before"


@dataclass(frozen=True)
class Segment:
    """One assistant's turn and what stands before it."""

    prompt: str
    """Text since the turn before, up to where the assistant begins."""
    answer: str
    """The turn as the template writes it, to its end; empty for the turn that is to be generated."""
    trained: bool


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template."""

    tokenizer: PreTrainedTokenizerBase

    def render(self, turns: Sequence[Turn], num_context: int = 0, open_ended: bool = False) -> list[Segment]:
        """Write a conversation.

        A template that writes an earlier turn otherwise once another follows (Qwen3 takes thoughts out) makes the
        turns before untrained: they become part of the next segment's prompt.

        Args:
            turns: System, user and assistant in their right order.
            num_context: Assistant turns among so many first turns are not trained on.
            open_ended: Write the start of one more assistant's turn behind everything.

        Raises:
            RowError: The template refuses or leaves out a turn.
            ModelError: There is no template, or what it writes cannot be taken apart.
        """
        segments: list[Segment] = []
        done = ""
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before, after = self._apply(turns[:index], True), self._apply(turns[: index + 1], False)
            if not after.startswith(before):
                raise ModelError(
                    f"the chat template opens an assistant's turn by {_end_of(before)} but then writes "
                    f"{_start_of_change(before, after)} there, so prompt and answer cannot be told apart; {_HINT}"
                )
            if not before.startswith(done):
                segments, done = [], ""
            trained = index >= num_context and bool(turn["content"].strip())
            segments.append(Segment(before[len(done) :], after[len(before) :], trained))
            done = after
        if open_ended:
            before = self._apply(turns, True)
            segments, done = (segments, done) if before.startswith(done) else ([], "")
            segments.append(Segment(before[len(done) :], "", False))
        if segments:
            _require_system(turns, segments[0].prompt)
        return segments

    def open_turn(self, text: str) -> str:
        """Write one user's turn, and the start of an answer without a thought.

        Raises:
            RowError: The template refuses it.
            ModelError: There is no template.
        """
        return self._apply([{"role": "user", "content": text}], True, enable_thinking=False)

    @cached_property
    def end_of_turn(self) -> int:
        """The token that ends an assistant's turn.

        Raises:
            ModelError: There is no template, or it ends the turn by no token of its own, so that a model would
                never learn to stop.
        """
        try:
            [segment] = self.render(_PROBE)
        except RowError as error:
            raise ModelError(f"the chat template refuses a question with its answer: {error}") from error
        close = segment.answer.rpartition(_PROBE[1]["content"])[2]
        known = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        known -= {self.tokenizer.unk_token_id}
        ids = self.tokenizer(close, add_special_tokens=False)["input_ids"] if close else []
        found = next((index for index in ids if index in known), None)
        if found is None:
            raise ModelError(
                f"the chat template ends an assistant's turn by {close!r}, which the tokenizer does not know as a "
                "special token, so the model could not learn to stop; add the template's tokens under "
                "model.extra_special_tokens (for chatml: <|im_start|> and <|im_end|>), or use another "
                "model.chat_template"
            )
        return int(found)

    def _apply(self, turns: Sequence[Turn], open_ended: bool, **variables: bool) -> str:
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise ModelError(
                "the rows are conversations, and the tokenizer has no chat template; set model.chat_template to "
                "chatml or to a template file"
            )
        try:
            text = self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=open_ended, **variables
            )
        except TemplateError as error:
            raise RowError(f"the chat template refuses the conversation: {error}") from error
        return str(text)


def _require_system(turns: Sequence[Turn], opening: str) -> None:
    if turns[0]["role"] == "system" and turns[0]["content"].strip() not in opening:
        raise RowError("the chat template leaves the system turn out")


def _end_of(text: str) -> str:
    return repr(text[-30:])


def _start_of_change(before: str, after: str) -> str:
    same = next((index for index, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
    return repr(after[same : same + 30])
