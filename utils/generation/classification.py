"""Classifies rows of text in batches of like length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import TYPE_CHECKING, Any

from utils.data.tokenizing import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHUNK = 1024  # rows held at once: enough to find rows of like length, little enough to stream a large file


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
        max_batch_tokens: Padded tokens in one batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label_names: Sequence[str],
        max_length: int,
        max_batch_tokens: int = 8192,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._inputs = _input_names(model)
        self._names = tuple(label_names)
        self._max_length = max_length
        self._max_batch_tokens = max_batch_tokens

    def classify(self, rows: Iterable[tuple[str, ...]]) -> Iterator[Classified]:
        """Classify rows of one or two texts, lazily and in their order."""
        stream = iter(rows)
        while chunk := list(islice(stream, _CHUNK)):
            yield from self._classify_chunk(chunk)

    def _classify_chunk(self, rows: list[tuple[str, ...]]) -> list[Classified]:
        encoded, cut = encode_texts(list(zip(*rows, strict=True)), self._tokenizer, self._max_length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        answers: list[Classified | None] = [None] * len(rows)
        for batch in self._batches(lengths):
            for row, logits in zip(batch, self._logits(encoded, batch), strict=True):
                answers[row] = self._read(logits, cut[row])
        return [answer for answer in answers if answer is not None]

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

        rows = [{key: encoded[key][row] for key in encoded if key in self._inputs} for row in batch]
        inputs = self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            return self._model(**inputs).logits.float().cpu()

    def _read(self, logits: Any, truncated: bool) -> Classified:
        if not self._names:
            return Classified(None, {}, float(logits.reshape(-1)[0]), truncated)
        shares = logits.softmax(dim=-1).tolist()
        best = max(range(len(shares)), key=shares.__getitem__)
        return Classified(self._names[best], dict(zip(self._names, shares, strict=True)), None, truncated)


def _input_names(model: PreTrainedModel) -> frozenset[str]:
    """Name what the model's forward takes; the Trainer drops the rest too."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(signature(plain.forward).parameters)
