"""The interface of a backend that generates answers to prompts, and opening one by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

from utils.config.sections.generation import GenerationSection
from utils.core import registry
from utils.core.errors import UserError
from utils.generation.server import ServedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_SECONDS = 1.0
SERVER = "server"
"""Backend of models behind a server, selected by the model itself."""


@dataclass(frozen=True)
class Generated:
    """The answer generated for one prompt."""

    text: str
    """Text without special tokens, cut before the first stop string."""
    num_tokens: int
    """Number of generated tokens, including the end token."""
    finished: bool
    """Whether the answer ended by itself; False: it reached max_new_tokens or the model's last position."""
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The tokens, including the end token; empty if the backend does not report them."""


class GenerationBackend(Protocol):
    """A model ready to generate.

    Decoding is greedy at temperature 0. Above, each row samples with the seed and its own number, so that neither the
    batch size nor other rows in the batch affect its answer.

    A backend that several threads may call at once sets `num_parallel` to their number.
    """

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Warn of prompts that leave fewer than max_new_tokens positions.

        Raises:
            DataError: A prompt is empty, or leaves no position at all.
        """

    def explain_refusal(self, num_tokens: int) -> str | None:
        """Explain why nothing can be generated after a prompt of `num_tokens` tokens, or return None if it can."""

    def plan_batches(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Group prompts, given as token ids without padding, into batches that are efficient to answer.

        The plan depends only on lengths, so processes that share the work make the same plan; each passes
        `batches[rank::num_processes]` to `generate_batch`, in `-(-len(batches) // num_processes)` rounds for all of
        them.
        """

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], batch: Sequence[int], numbers: Sequence[int] | None = None
    ) -> Iterable[tuple[int, Generated]]:
        """Yield the answers of one planned batch, in any order, as indices into `prompts` with their answers.

        `explain_refusal` must accept all prompts. A prompt's number among all prompts (None: its index) determines its
        samples.
        """

    def stream(self, prompt: Sequence[int], show: Callable[[str], None]) -> Generated:
        """Answer one prompt, passing its text to `show` in pieces that make up the answer's text."""


def open_backend(
    model: PreTrainedModel | ServedModel,
    tokenizer: PreTrainedTokenizerBase,
    section: GenerationSection,
    stop: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    *,
    seed: int = 0,
) -> GenerationBackend:
    """Open the backend named by `generation.backend`, or the server's for a model behind one.

    The model, which may be a PEFT model, must be on its device and not wrapped for several processes. `stop` and
    `stop_token_ids` end an answer in addition to the section's stop strings and the model's and tokenizer's end tokens.
    The seed determines the samples if the temperature is above 0.
    """
    name = SERVER if isinstance(model, ServedModel) else section.backend
    backend = registry.load("generation.backends", name).Backend
    return cast("GenerationBackend", backend(model, tokenizer, section, stop, stop_token_ids, seed=seed))


Written = list[tuple[int, Generated]]
"""Indices of prompts with their answers."""


def generate_batches(
    backend: GenerationBackend,
    prompts: Sequence[Sequence[int]],
    batches: Sequence[Sequence[int]],
    numbers: Sequence[int] | None = None,
) -> Generator[Written, None, None]:
    """Yield the answers of planned batches, run one after another, or `num_parallel` at once if the backend has it.

    Answers are yielded as by `generate_batch`: per batch, or for a long batch about once per second. If a batch fails,
    no further one is started, and running ones are yielded before the error is raised.
    """
    num_parallel = getattr(backend, "num_parallel", 1)
    if num_parallel == 1:
        for batch in batches:
            yield from _cut_by_time(_require_all(backend.generate_batch(prompts, batch, numbers), batch))
        return
    failure: BaseException | None = None
    left = iter(batches)
    with ThreadPoolExecutor(num_parallel) as pool:

        def write(batch: Sequence[int]) -> Written:
            return list(_require_all(backend.generate_batch(prompts, batch, numbers), batch))

        def begin(count: int) -> set[Future[Written]]:
            return {pool.submit(write, batch) for batch in islice(left, count)}

        running = begin(num_parallel)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            failure = next((error for each in done if (error := each.exception())), failure)
            running |= begin(len(done)) if failure is None else set()
            yield from (each.result() for each in done if each.exception() is None)
    if failure is not None:
        raise failure


def _require_all(answers: Iterable[tuple[int, Generated]], batch: Sequence[int]) -> Iterator[tuple[int, Generated]]:
    """Yield a batch's answers.

    Raises:
        UserError: The backend, which may be a plug-in, gave other rows than the batch has.
    """
    given: list[int] = []
    for row, answer in answers:
        given.append(row)
        yield row, answer
    if sorted(given) != sorted(batch):
        raise UserError(f"generation.backend: generate_batch gave {len(given)} answers to a batch of {len(batch)} rows")


def _cut_by_time(answers: Iterable[tuple[int, Generated]]) -> Generator[Written, None, None]:
    written: Written = []
    last = time.monotonic()
    for answer in answers:
        written.append(answer)
        if time.monotonic() - last > _SECONDS:
            yield written
            written, last = [], time.monotonic()
    if written:
        yield written
