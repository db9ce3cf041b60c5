"""Chat templates: renders conversations turn by turn, so that the text of each assistant turn is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from utils.core.errors import ModelError
from utils.core.library_errors import explain_library
from utils.core.texts import RowError
from utils.core.time_limit import time_limit
from utils.data.chat_abilities import OWN_KEYS, Abilities
from utils.data.conversations import THOUGHT_KEYS, is_trained
from utils.data.dataset import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = ({"role": "user", "content": "Say a number"}, {"role": "assistant", "content": "It is 27"})
_TIME_LIMIT_S = 10
"""A template takes well under a millisecond; one that loops is stopped."""
_TIMEOUT_MESSAGE = f"it is not done with a conversation after {_TIME_LIMIT_S} s"
_timed_out: set[str] = set()
"""Templates that timed out; later attempts fail at once."""
_TRAINING_TEMPLATES = (
    ("<\uff5cUser\uff5c>", "r1"),
    ("<|User|>", "r1"),
    ("<|im_start|>", "chatml"),
)
"""A token typical of a family of templates, and the `model.chat_template` that makes the family trainable."""


@dataclass(frozen=True)
class Segment:
    """One assistant turn and the text before it."""

    prompt: str
    """Text since the previous turn, up to the start of the assistant's text."""
    answer: str
    """The turn as the template writes it, including its end; empty for a turn to be generated."""
    trained: bool


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template."""

    tokenizer: PreTrainedTokenizerBase

    def render(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = (), open_ended: bool = False
    ) -> list[list[Segment]]:
        """Render a conversation returned by `abilities.adapt` in one or more renderings, the last one complete.

        Some templates write an earlier turn differently once another follows (Qwen3 removes thoughts). The conversation
        is then rendered once for each such turn, up to that turn, so that every answer is trained on as the model would
        write it, after the earlier turns as the model would read them. `open_ended` appends the start of another
        assistant turn.

        Raises:
            RowError: The template rejects or omits a turn.
            ModelError: There is no template, or its output cannot be split into turns.
        """
        renderings: list[list[Segment]] = [[]]
        done = ""
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant" or index == 0:  # an opening turn answers nothing: not trained on
                continue
            before, after = self.apply(turns[:index], True, tools), self.apply(turns[: index + 1], False, tools)
            if not after.startswith(before) and self.end_of_turn:  # which checks the template
                raise RowError(f"the chat template opens turn {index + 1} differently than it writes it")
            answer = after[len(before) :]
            trained = is_trained(turn) and bool(turn["content"].strip() or turn.get("tool_calls"))
            if trained:
                _check_answer(turn, answer, index)
            prompt = self._new_prompt_text(renderings, done, before)
            renderings[-1].append(Segment(prompt, answer, trained))
            done = after
        if open_ended:  # an answer is to be generated here
            prompt = self._new_prompt_text(renderings, done, self.apply(turns, True, tools))
            renderings[-1].append(Segment(prompt, "", False))
        asked = turns if open_ended else turns[: _find_last_answer(turns)]
        _check_requests(asked, "".join(each.prompt for each in renderings[-1]))
        return renderings

    @cached_property
    def abilities(self) -> Abilities:
        """What the template supports; adapts conversations to it."""
        return Abilities(self.apply)

    def open_turn(self, text: str) -> str:
        """Render one user turn, and the start of an answer without a thought."""
        return self.apply([{"role": "user", "content": text}], True, enable_thinking=False)

    @cached_property
    def end_of_turn(self) -> int:
        """Id of the token that ends an assistant turn; raises a ModelError if there is none to learn to stop with."""
        try:
            before, after = self.apply(_PROBE[:1], True), self.apply(_PROBE, False)
        except RowError as error:
            raise ModelError(f"the chat template refuses a question with its answer: {error}") from error
        self._require_opening(before, after)
        close = after.rpartition(_PROBE[1]["content"])[2]
        found = next(iter(self._find_tokens(close)), None)
        if found is None:
            known = self.tokenizer.get_vocab()
            tokens = [each for each in dict.fromkeys(re.findall(r"<[^<>\s]+>", after)) if each not in known]
            raise ModelError(
                f"the chat template ends an assistant's turn by {close!r}, which the tokenizer does not know as a "
                "special token, so the model could not learn to stop; set model.extra_special_tokens: "
                f"{tokens or '[the tokens of the template]'}, or use another model.chat_template"
            )
        return found

    @cached_property
    def end_of_call(self) -> int | None:
        """Id of the token that ends an assistant turn with tool calls, or None if the template writes no calls.

        It is usually that of any other turn; gpt-oss, Gemma 4 and GLM end a call with a different token.
        """
        end = self.end_of_turn
        if not (turns := self.abilities.call):
            return None
        try:
            before, after = self.apply(turns[:1], True), self.apply(turns, False)
        except RowError:  # it accepts calls only if more turns follow
            return end
        tokens = self._find_tokens(after[len(before) :])
        return end if end in tokens or not tokens else tokens[-1]

    def _find_tokens(self, text: str) -> list[int]:
        """Return the ids of special and added tokens in a text."""
        known = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        known -= {self.tokenizer.unk_token_id}
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [int(index) for index in ids if index in known]

    def apply(
        self, turns: Sequence[Turn], open_ended: bool, tools: Sequence[dict[str, Any]] = (), **variables: bool
    ) -> str:
        """Render turns with the template and, if open-ended, the start of an assistant turn after them.

        Raises:
            RowError: The template rejects the turns.
            ModelError: There is no template.
        """
        from jinja2 import TemplateError, TemplateSyntaxError

        if not self.tokenizer.chat_template:
            raise ModelError(
                "the rows are conversations, and the tokenizer has no chat template; set model.chat_template to "
                "chatml, to qwen2_5 where rows have tools, or to a template file"
            )
        if self.tokenizer.chat_template in _timed_out:
            raise _broken_template(_TIMEOUT_MESSAGE)
        shown = [{key: value for key, value in turn.items() if key not in OWN_KEYS} for turn in turns]
        try:
            with time_limit(_TIME_LIMIT_S), explain_library(_broken_template):
                text = self.tokenizer.apply_chat_template(
                    shown, tools=list(tools) or None, tokenize=False, add_generation_prompt=open_ended, **variables
                )
        except ModelError as error:
            if isinstance(error.__cause__, TemplateError) and not isinstance(error.__cause__, TemplateSyntaxError):
                raise RowError(f"the chat template refuses the conversation: {error.__cause__}") from error
            raise
        except TimeoutError:
            _timed_out.add(self.tokenizer.chat_template)
            raise _broken_template(_TIMEOUT_MESSAGE) from None
        return str(text)

    def _new_prompt_text(self, renderings: list[list[Segment]], done: str, before: str) -> str:
        """Return the part of a prompt that is not rendered yet; start another rendering if earlier turns changed.

        Text after the end of the whole conversation, such as the end-of-text token that Phi-3 adds, does not count as a
        change of a turn and is removed from the last answer.
        """
        if before.startswith(done):
            return before[len(done) :]
        last = renderings[-1][-1]
        # End of the text that the last turn really ends with: its end-of-turn token, and whitespace after it.
        end = str(self.tokenizer.convert_ids_to_tokens(self.end_of_turn))
        stays = done.rfind(end) + len(end)
        while done[stays : stays + 1].isspace() and done[stays] == before[stays : stays + 1]:
            stays += 1
        if end in last.answer and before.startswith(done[:stays]):
            renderings[-1][-1] = Segment(last.prompt, last.answer[: len(last.answer) + stays - len(done)], last.trained)
            return before[stays:]
        renderings.append([])
        return before

    def _require_opening(self, before: str, after: str) -> None:
        """Check that the answer begins where the template opened it."""
        if after.startswith(before):
            return
        known = self.tokenizer.get_vocab()
        named = next((name for token, name in _TRAINING_TEMPLATES if token in known), None)
        # First difference between the texts, to show both there.
        same = next((place for place, pair in enumerate(zip(before, after, strict=False)) if len({*pair}) > 1), 0)
        hint = (
            f"set model.chat_template: {named}, which writes the same turns with thoughts as part of the answer, or"
            if named
            else "set model.chat_template to chatml or"
        )
        raise ModelError(
            f"the chat template opens an assistant's turn by {before[-30:]!r} but then writes {after[same:][:30]!r} "
            f"there, so prompt and answer cannot be told apart; {hint} to a template file that writes every turn after "
            "the one before"
        )


def _check_answer(turn: Turn, answer: str, index: int) -> None:
    """Check that the template rendered the text, the thought and the calls of a trained turn."""
    if turn["content"].split("</think>")[-1].strip() not in answer:
        raise RowError(f"the chat template leaves out the text of turn {index + 1}")
    thought = next((turn[key] for key in THOUGHT_KEYS if key in turn), "")
    if thought.strip() not in answer or ("</think>" in turn["content"] and "</think>" not in answer):
        raise RowError(
            f"the chat template leaves out the reasoning of turn {index + 1}; set model.chat_template to one that "
            "writes it (chatml and r1 do)"
        )
    if any(call["function"]["name"] not in answer for call in turn.get("tool_calls", ())):
        raise RowError(f"the chat template leaves out the tool calls of turn {index + 1}")


def _broken_template(line: str) -> ModelError:
    return ModelError(f"the chat template cannot be used ({line}); fix it, or set model.chat_template to another one")


def _find_last_answer(turns: Sequence[Turn]) -> int:
    return max((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)


def _check_requests(turns: Sequence[Turn], prompts: str) -> None:
    """Check that the prompts contain everything said to the assistant."""
    for index, turn in enumerate(turns):
        if turn["role"] in ("system", "user") and turn["content"].strip() not in prompts:
            number = "" if index == 0 else f" {index + 1}"
            raise RowError(f"the chat template leaves the {turn['role']} turn{number} out")
