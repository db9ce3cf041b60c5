"""Generates with transformers' `generate`, in batches within a token budget, leaving the model unchanged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError
from utils.generation.backend import Generated
from utils.generation.batching import Batching, run_halved
from utils.generation.decoding import (
    AnswerStream,
    RequireFinite,
    StopTexts,
    SuppressEndTokens,
    build_sampler,
    find_stop_ids,
    read_generated,
)
from utils.generation.model_state import keep_random_state, ready_to_generate
from utils.generation.refilling import can_refill, write_refilling
from utils.modeling.sizes import count_text_positions, is_prompt_learning

logger = logging.getLogger(__name__)

_ROUNDS = 4


class Backend:
    """A backend as defined by GenerationBackend and open_backend.

    Only the section's settings apply, not the model's generation_config.json, except for end tokens: those of the
    model, the tokenizer and `stop_token_ids` all end an answer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
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
        self._end_ids = _find_end_ids(model, tokenizer, stop_token_ids)
        self._seed = seed
        self._refills = section.temperature == 0 and not section.min_new_tokens and can_refill(model)
        self._batching = Batching(
            max_rows=section.batch_size,
            max_tokens=section.max_batch_tokens,
            max_new_tokens=section.max_new_tokens,
            num_positions=count_text_positions(model),
            takes_padding=not is_prompt_learning(model),
        )

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """See GenerationBackend."""
        self._batching.check(prompts)

    def explain_refusal(self, num_tokens: int) -> str | None:
        """See GenerationBackend."""
        return self._batching.explain_refusal(num_tokens)

    def plan_batches(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Plan batches of prompts of similar length, longest first.

        A batch has at most `generation.batch_size` rows and, unless it is a single row, `generation.max_batch_tokens`
        tokens with padding and answers. If batches are refilled as rows end, each has up to four times as many rows in
        total.
        """
        planned = list(self._batching.plan(list(map(len, prompts))))
        if not self._refills or _count_processes() > 1:  # several processes share small batches more evenly
            return planned
        size, joined = self._section.batch_size, list[list[int]]()
        for batch in planned:
            if joined and len(joined[-1]) in range(size, _ROUNDS * size, size):
                joined[-1] += batch
            else:
                joined.append(batch)
        return joined

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], batch: Sequence[int], numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Generated]]:
        """Yield the answers of a batch, which is halved as often as memory requires.

        The model's mode and the random generators are restored afterwards, and no answers are kept.
        """
        if self._refills:
            yield from self._refill(prompts, batch)
            return
        answers = run_halved(
            lambda part: self._write(prompts, part, numbers), batch, "prompts", " (generation.max_batch_tokens)"
        )
        yield from zip(batch, answers, strict=True)

    def _refill(self, prompts: Sequence[Sequence[int]], batch: Sequence[int]) -> Iterator[tuple[int, Generated]]:
        """Answer a batch that is refilled as rows end, halving the concurrent rows as often as memory requires."""
        stopping = StopTexts(self._tokenizer, self._stop, 0) if self._stop else None
        spaces = {row: self._batching.count_space(len(prompts[row])) for row in batch}

        def has_ended(row: int, ids: list[int]) -> bool:
            if ids[-1] in self._end_ids or len(ids) >= spaces[row]:
                return True
            return stopping is not None and stopping.holds_stop(ids)

        left = {row: prompts[row] for row in sorted(batch, key=lambda row: -len(prompts[row]))}
        num_slots = len(next(self._batching.plan([len(each) for each in left.values()])))
        with keep_random_state(), ready_to_generate(self._model):
            while left:
                try:
                    for row, ids in write_refilling(self._model, dict(left), num_slots, has_ended):
                        del left[row]
                        yield row, read_generated(self._tokenizer, ids, self._end_ids, self._stop, 0)
                except torch.OutOfMemoryError:
                    if num_slots == 1:
                        raise
                    logger.warning("%d prompts at once do not fit into memory; trying %d (generation.max_batch_tokens)",
                                   num_slots, (num_slots + 1) // 2)  # fmt: skip
                    num_slots = (num_slots + 1) // 2
                torch.cuda.empty_cache()  # outside the handler, whose traceback holds the batch's tensors

    def stream(self, prompt: Sequence[int], show: Callable[[str], None]) -> Generated:
        """See GenerationBackend."""
        if reason := self.explain_refusal(len(prompt)):
            raise DataError(f"the prompt {reason}")
        stream = AnswerStream(self._tokenizer, self._stop, self._end_ids, show, self._section.min_new_tokens)
        [answer] = self._write([prompt], [0], None, stream)
        stream.finish(answer.text)
        return answer

    def _write(
        self,
        prompts: Sequence[Sequence[int]],
        batch: Sequence[int],
        numbers: Sequence[int] | None,
        streamer: AnswerStream | None = None,
    ) -> list[Generated]:
        width = max(len(prompts[row]) for row in batch)
        inputs = self._pad([prompts[row] for row in batch], width)
        drawn = batch if numbers is None else [numbers[row] for row in batch]
        min_tokens = self._section.min_new_tokens
        stopping = StopTexts(self._tokenizer, self._stop, width, min_tokens) if self._stop else None
        choosing = build_sampler(self._section, drawn, self._seed)
        if min_tokens:  # before the sampler, which leaves a single token
            choosing.insert(0, SuppressEndTokens(self._closing_ids, width, min_tokens))
        choosing.insert(0, RequireFinite())
        with keep_random_state(), ready_to_generate(self._model), torch.no_grad():
            written = self._model.generate(
                **inputs,
                generation_config=self._build_config(self._batching.count_space(width)),
                logits_processor=choosing,
                stopping_criteria=[stopping] if stopping else None,
                streamer=streamer,
            )
        answers = written[:, width:].tolist()
        lengths = stopping.lengths if stopping else {}
        return [
            read_generated(self._tokenizer, ids, self._end_ids, self._stop, min_tokens, lengths.get(row))
            for row, ids in enumerate(answers)
        ]

    def _pad(self, prompts: list[Sequence[int]], width: int) -> dict[str, Any]:
        """Pad on the left, so that answers start at the same position."""
        gaps = [width - len(prompt) for prompt in prompts]
        ids = [[self._pad_id] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
        mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
        device = self._model.device
        return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}

    def _build_config(self, num_tokens: int) -> Any:
        """Build a config of our own; sampling, if any, is done by our sampler, not by transformers."""
        return GenerationConfig(
            max_new_tokens=num_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=list(self._end_ids) or None,
            pad_token_id=self._pad_id,
        )

    @property
    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(pad) if pad is not None else (self._end_ids or (0,))[0]

    @property
    def _closing_ids(self) -> tuple[int, ...]:
        """Tokens any one of which would end an answer."""
        return (*self._end_ids, *find_stop_ids(self._tokenizer, self._stop))


def _count_processes() -> int:
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _find_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, more: Sequence[int]) -> tuple[int, ...]:
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, list | tuple) else [own]
    return tuple(dict.fromkeys(int(each) for each in (*listed, tokenizer.eos_token_id, *more) if each is not None))
