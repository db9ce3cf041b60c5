"""Generates with an OpenAI-compatible server's completions, sending token ids if it accepts them, else text."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError, UserError
from utils.generation.backend import Generated
from utils.generation.batching import Batching
from utils.generation.decoding import cut_at_stop, read_generated
from utils.generation.server import RefusedError, ServedModel, ServerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_PADDING = 1024
"""Maximum number of tokens that a model has beyond its tokenizer's: vocabularies are padded to round numbers."""
_PIECES = 8
"""Maximum number of stream events per token."""


class Backend:
    """A backend as defined by GenerationBackend and open_backend.

    `generation.batch_size` requests are sent at once. If the server returns token ids (vLLM does), they are decoded
    here, so that the text equals transformers' for the same tokens. At a temperature above 0 the server samples, with a
    seed for each row.
    """

    def __init__(
        self,
        model: ServedModel,
        tokenizer: PreTrainedTokenizerBase,
        section: GenerationSection,
        stop: Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        *,
        seed: int = 0,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._section = section
        self._stop = tuple(dict.fromkeys([*section.stop, *stop]))
        ends = (tokenizer.eos_token_id, *stop_token_ids)
        self._end_ids = tuple(dict.fromkeys(int(each) for each in ends if each is not None))
        self._seed = seed
        self._batching = Batching(section.max_batch_tokens, 1, section.max_new_tokens, model.window)
        self.num_parallel = section.batch_size
        self._takes_ids, self._takes_more = self._probe_server()

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """See GenerationBackend."""
        self._batching.check(prompts)

    def explain_refusal(self, num_tokens: int) -> str | None:
        """See GenerationBackend."""
        return self._batching.explain_refusal(num_tokens)

    def plan_batches(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Plan each prompt separately: the server batches concurrent requests."""
        return [[row] for row in range(len(prompts))]

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], batch: Sequence[int], numbers: Sequence[int] | None = None
    ) -> list[tuple[int, Generated]]:
        """Answer one prompt after another.

        Raises:
            ServerError: The server does not answer, or rejects a prompt.
        """
        return [(row, self._ask(prompts[row], row if numbers is None else numbers[row])) for row in batch]

    def stream(self, prompt: Sequence[int], show: Callable[[str], None]) -> Generated:
        """See GenerationBackend; the server's text is shown unchanged."""
        if reason := self.explain_refusal(len(prompt)):
            raise DataError(f"the prompt {reason}")
        most = self._batching.count_space(len(prompt))
        text, num_pieces, finish_reason = "", 0, None
        for piece in self._model.stream(self._build_body(prompt, 0)):
            text, num_pieces = text + piece.text, num_pieces + bool(piece.text)
            finish_reason = piece.finish_reason or finish_reason
            show(piece.text)
            if num_pieces > _PIECES * most:
                raise ServerError(f"{self._model.name}: continues beyond the {most} tokens it was asked for")
        self._check_end(finish_reason or "connection")
        return Generated(text, num_pieces, finish_reason == "stop")

    def _probe_server(self) -> tuple[bool, bool]:
        """Test with one token whether the server accepts token ids, and vLLM's additional fields, and log it."""
        ids = [int(each) for each in self._tokenizer("The")["input_ids"]] or [*self._end_ids[:1]]
        request = {"model": self._model.name, "max_tokens": 1, "temperature": 0.0}
        refused: RefusedError | None = None
        for takes_ids, takes_more in product((True, False), repeat=2):
            body = {**request, "prompt": ids if takes_ids else self._as_text(ids)}
            try:
                answer = self._model.ask(body | (self._list_more() if takes_more else {}))
            except RefusedError as error:
                refused = refused or error
                continue
            self._report_probe(takes_ids, takes_more, len(ids), answer.usage.prompt_tokens)
            return takes_ids, takes_more
        assert refused is not None, "nothing else ends the loop"
        raise refused

    def _report_probe(self, takes_ids: bool, takes_more: bool, num_ours: int, num_theirs: int | None) -> None:
        name, section = self._model.name, self._section
        if not takes_more and (section.min_new_tokens or (section.temperature and section.top_k)):
            raise UserError(f"{name}: the server takes neither min_tokens nor top_k; leave generation.min_new_tokens "
                            "and generation.top_k out")  # fmt: skip
        if takes_ids:
            logger.info("%s: prompts go as token ids", name)
        else:
            logger.info("%s: prompts go as texts, since the server takes no token ids", name)
        if not takes_more:
            logger.warning("%s: the server takes no stop_token_ids and gives no token ids: its own end tokens count, "
                           "and its texts are taken as they come", name)  # fmt: skip
        if not takes_ids and num_theirs not in (None, num_ours):
            logger.warning("%s: the server makes %s tokens of a text that has %d here; its answers may differ",
                           name, num_theirs, num_ours)  # fmt: skip

    def _list_more(self) -> dict[str, Any]:
        """Return vLLM's additional fields; for missing ones it would use generation_config.json."""
        section, drawn = self._section, bool(self._section.temperature)
        more = {"stop_token_ids": list(self._end_ids), "min_tokens": section.min_new_tokens, "repetition_penalty": 1.0,
                "top_k": (section.top_k or -1) if drawn else None, "return_token_ids": True}  # fmt: skip
        return {key: value for key, value in more.items() if value}

    def _as_text(self, ids: Sequence[int]) -> str:
        """Return a prompt as text, without the beginning-of-text token, which the server adds."""
        kept = ids[1:] if ids and ids[0] == self._tokenizer.bos_token_id else ids
        return str(self._tokenizer.decode(kept, clean_up_tokenization_spaces=False))

    def _build_body(self, prompt: Sequence[int], number: int) -> dict[str, Any]:
        section = self._section
        body: dict[str, Any] = {
            "model": self._model.name,
            "prompt": list(prompt) if self._takes_ids else self._as_text(prompt),
            "max_tokens": self._batching.count_space(len(prompt)),
            "temperature": section.temperature,
        }
        if self._stop:
            body["stop"] = list(self._stop)
        if section.temperature:
            body["seed"] = zlib.crc32(f"{self._seed} {number}".encode()) >> 1
            body["top_p"] = section.top_p or 1.0
        return body | (self._list_more() if self._takes_more else {})

    def _ask(self, prompt: Sequence[int], number: int) -> Generated:
        body = self._build_body(prompt, number)
        answer = self._model.ask(body)
        [choice] = answer.choices
        text, finish_reason, ids = choice.text, choice.finish_reason, choice.token_ids
        self._check_end(finish_reason)
        if ids:
            self._check_ids(ids, body["max_tokens"])
            read = read_generated(self._tokenizer, ids, self._end_ids, self._stop, self._section.min_new_tokens)
            return replace(read, finished=read.finished or finish_reason == "stop")
        text, has_stop = cut_at_stop(text, self._stop)
        num_tokens = answer.usage.completion_tokens or len(self._tokenizer(text)["input_ids"])
        return Generated(text, num_tokens, has_stop or finish_reason == "stop")

    def _check_end(self, finish_reason: str | None) -> None:
        if finish_reason in ("abort", "error", "connection"):
            raise ServerError(f"{self._model.name}: an answer ends in the middle ({finish_reason})")

    def _check_ids(self, ids: Sequence[int], most: int) -> None:
        """Check that a server's tokens are the tokenizer's, and no more than requested."""
        if len(ids) > most:
            raise ServerError(f"{self._model.name}: wrote {len(ids)} tokens where {most} were asked for at most")
        if (largest := max(ids)) >= len(self._tokenizer) + _PADDING:
            raise ServerError(
                f"{self._model.name}: gives token {largest}, and the tokenizer here has {len(self._tokenizer)}; it "
                "serves another model"
            )
