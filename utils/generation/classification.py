"""Classifies rows of text in batches of like length."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import TYPE_CHECKING, Any

from utils.data.tokenizing import encode_texts
from utils.generation.side_by_side import run_side_by_side

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_CHUNK = 1024  # rows held at once: enough to find rows of like length, little enough to stream a large file
_CPU_BATCH_TOKENS = 512  # what a core keeps in its cache of a layer; a GPU wants more
_GPU_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Classified:
    """The answer for one row."""

    label: str | None
    """Name of the class; None for regression."""
    probabilities: dict[str, float]
    """By class name, summing to 1; empty for regression."""
    value: float | None
    """The regression value; None for classes."""
    truncated: bool
    """Whether the row was cut at max_length."""
    num_tokens: int = 0
    """Tokens that the model read."""

    def to_dict(self) -> dict[str, Any]:
        """Give the answer for a file: a label with its probabilities, or a value."""
        answer: dict[str, Any] = {"value": self.value} if self.label is None else {"label": self.label}
        if self.probabilities:
            answer["probabilities"] = self.probabilities
        return answer | ({"truncated": True} if self.truncated else {})


class TextClassifier:
    """A model with its tokenizer and label names, ready to classify.

    Args:
        model: On its device; put in evaluation mode here.
        tokenizer: The one it was trained with.
        label_names: Names in the order of the ids; empty for regression.
        max_length: Tokens a row may have.
        max_batch_tokens: Padded tokens in one batch; None: as many as suit the device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label_names: Sequence[str],
        max_length: int,
        max_batch_tokens: int | None = None,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._inputs = _input_names(model)
        self._names = tuple(label_names)
        self._max_length = max_length
        suitable = _CPU_BATCH_TOKENS if model.device.type == "cpu" else _GPU_BATCH_TOKENS
        self._max_batch_tokens = max_batch_tokens or suitable

    def classify(self, rows: Iterable[tuple[str, ...]]) -> Iterator[Classified]:
        """Classify rows of one or two texts, lazily and in their order."""
        stream = iter(rows)
        while chunk := list(islice(stream, _CHUNK)):
            yield from self._classify_chunk(chunk)

    def classify_batches(
        self, rows: Sequence[tuple[str, ...]], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Classified]]]:
        """Classify rows, longest first, in the same batches whatever is done already.

        Args:
            rows: Each of one or two texts.
            done: Places in `rows`; a batch of which all are done is passed over.

        Yields:
            Places in `rows` with their answers, of one batch.
        """
        if not rows:
            return
        encoded, cut = encode_texts(list(zip(*rows, strict=True)), self._tokenizer, self._max_length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        wanted = [batch for batch in self._batches(lengths) if not all(row in done for row in batch)]
        found = run_side_by_side(self._model, lambda batch: self._logits(encoded, batch), wanted)
        for batch, logits in zip(wanted, found, strict=True):
            values = (logits.softmax(dim=-1) if self._names else logits.reshape(-1, 1)).tolist()
            yield [(row, self._read(each, cut[row], lengths[row])) for row, each in zip(batch, values, strict=True)]

    def _classify_chunk(self, rows: list[tuple[str, ...]]) -> list[Classified]:
        answers = {row: answer for batch in self.classify_batches(rows) for row, answer in batch}
        return [answers[row] for row in range(len(rows))]

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self._max_batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _logits(self, encoded: Any, batch: list[int]) -> Any:
        import torch

        try:
            return self._forward(encoded, batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        half = (len(batch) + 1) // 2  # outside the handler: the traceback holds the batch's tensors
        logger.warning("%d rows at once do not fit into memory; trying %d", len(batch), half)
        torch.cuda.empty_cache()
        return torch.cat([self._logits(encoded, part) for part in (batch[:half], batch[half:])])

    def _forward(self, encoded: Any, batch: list[int]) -> Any:
        import torch

        rows = [{key: encoded[key][row] for key in encoded if key in self._inputs} for row in batch]
        inputs = self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            return self._model(**inputs).logits.float().cpu()

    def _read(self, values: list[float], truncated: bool, num_tokens: int) -> Classified:
        if not self._names:
            return Classified(None, {}, values[0], truncated, num_tokens)
        best = max(range(len(values)), key=values.__getitem__)
        shares = dict(zip(self._names, values, strict=True))
        return Classified(self._names[best], shares, None, truncated, num_tokens)


def _input_names(model: PreTrainedModel) -> frozenset[str]:
    """Name what the model's forward takes; the Trainer drops the rest too."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(signature(plain.forward).parameters)
