"""What a backend offers that writes answers to prompts, and how one is opened by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from utils.config.sections.generation import GenerationSection
from utils.core import registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generated:
    """What was written for one prompt."""

    text: str
    """Without special tokens, cut before the first stop text."""
    num_tokens: int
    """Tokens written, with the one that ends the answer."""
    finished: bool
    """Whether the answer came to its end; False: it ran into max_new_tokens or the model's last position."""


class GenerationBackend(Protocol):
    """A model that is ready to write.

    Greedy at temperature 0. Above, each row draws from the seed and its own number, so that neither the batch size
    nor the rows beside it change what it gets. Which rows are in a batch changes no answer.
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
    ) -> list[tuple[int, Generated]]:
        """Write the answers of one planned batch, in its order, as places in `prompts` with their answers.

        `explain_refusal` must refuse none of the prompts. The number of a prompt among all (None: its place) decides
        what it draws.
        """

    def stream(self, prompt: Sequence[int], show: Callable[[str], None]) -> Generated:
        """Write an answer to one prompt and show its text piece by piece; the pieces are the answer's text."""


def open_backend(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    section: GenerationSection,
    stop: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    *,
    seed: int = 0,
) -> GenerationBackend:
    """Open the backend that `generation.backend` names.

    The model stands on its device, in any mode, and is not wrapped for several processes; a PEFT model too. `stop` and
    `stop_token_ids` end an answer besides the section's own texts and the model's and tokenizer's own tokens. The seed
    decides the draws when the temperature is above 0.
    """
    backend = registry.load("generation.backends", section.backend).Backend
    return cast("GenerationBackend", backend(model, tokenizer, section, stop, stop_token_ids, seed=seed))


def generate_batches(
    backend: GenerationBackend, prompts: Sequence[Sequence[int]], numbers: Sequence[int], done: Collection[int] = ()
) -> Iterator[list[tuple[int, Generated]]]:
    """Write answers to some of many prompts, in the same batches whatever is done already.

    Arguments and what is given are those of `GenerationBackend.generate_batch`; a batch whose places are all in `done`
    is passed over.
    """
    for batch in backend.plan_batches(prompts):
        if not all(row in done for row in batch):
            yield backend.generate_batch(prompts, batch, numbers)
