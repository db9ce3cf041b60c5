"""What a backend offers that writes answers to prompts, and how one is opened by its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol, cast

from utils.config.sections.generation import GenerationSection
from utils.core import registry
from utils.generation.server import ServedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_SECONDS = 1.0
SERVER = "server"
"""The backend of models behind a server, which the model itself asks for."""


@dataclass(frozen=True)
class Generated:
    """What was written for one prompt."""

    text: str
    """Without special tokens, cut before the first stop text."""
    num_tokens: int
    """Tokens written, with the one that ends the answer."""
    finished: bool
    """Whether the answer came to its end; False: it ran into max_new_tokens or the model's last position."""
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The tokens, with the one that ends it; empty where the backend does not tell them."""


class GenerationBackend(Protocol):
    """A model that is ready to write.

    Greedy at temperature 0. Above, each row draws from the seed and its own number, so that neither the batch size
    nor the rows beside it change what it gets. Which rows are in a batch changes no answer.

    A backend that can be asked by several threads at once says by how many in `num_parallel`.
    """

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Warn of prompts that leave fewer than max_new_tokens positions.

        Raises:
            DataError: A prompt is empty, or leaves no position at all.
        """

    def explain_refusal(self, num_tokens: int) -> str | None:
        """Say why nothing can be written after a prompt of so many tokens; None: it can."""

    def plan_batches(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Put prompts, token ids without padding, into the batches in which they are best answered.

        The plan depends on lengths only, so processes that share the work make the same one, each takes
        `batches[rank::num_processes]` to `generate_batch`, and all of them come to `-(-len(batches) // num_processes)`
        rounds.
        """

    def generate_batch(
        self, prompts: Sequence[Sequence[int]], batch: Sequence[int], numbers: Sequence[int] | None = None
    ) -> Iterable[tuple[int, Generated]]:
        """Write the answers of one planned batch, in any order, as places in `prompts` with their answers.

        `explain_refusal` must refuse none of the prompts. The number of a prompt among all (None: its place) decides
        what it draws.
        """

    def stream(self, prompt: Sequence[int], show: Callable[[str], None]) -> Generated:
        """Write an answer to one prompt and show its text piece by piece; the pieces are the answer's text."""


def open_backend(
    model: PreTrainedModel | ServedModel,
    tokenizer: PreTrainedTokenizerBase,
    section: GenerationSection,
    stop: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    *,
    seed: int = 0,
) -> GenerationBackend:
    """Open the backend that `generation.backend` names, or the server's for a model behind one.

    The model stands on its device, in any mode, and is not wrapped for several processes; a PEFT model too. `stop` and
    `stop_token_ids` end an answer besides the section's own texts and the model's and tokenizer's own tokens. The seed
    decides the draws when the temperature is above 0.
    """
    name = SERVER if isinstance(model, ServedModel) else section.backend
    backend = registry.load("generation.backends", name).Backend
    return cast("GenerationBackend", backend(model, tokenizer, section, stop, stop_token_ids, seed=seed))


Written = list[tuple[int, Generated]]
"""Places of prompts with their answers."""


def generate_batches(
    backend: GenerationBackend,
    prompts: Sequence[Sequence[int]],
    batches: Sequence[Sequence[int]],
    numbers: Sequence[int] | None = None,
) -> Generator[Written, None, None]:
    """Write the answers of planned batches: one after another, or several at once where the backend has `num_parallel`.

    Gives what `generate_batch` does: each batch as soon as it is written, of a long one what a second has brought.
    Where one fails no other is begun, and those under way are given before its error is raised.
    """
    num_parallel = getattr(backend, "num_parallel", 1)
    if num_parallel == 1:
        for batch in batches:
            yield from _cut_by_time(backend.generate_batch(prompts, batch, numbers))
        return
    failure: BaseException | None = None
    left = iter(batches)
    with ThreadPoolExecutor(num_parallel) as pool:

        def write(batch: Sequence[int]) -> Written:
            return list(backend.generate_batch(prompts, batch, numbers))

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
