"""Classifies rows of text in batches of similar length; on a CPU, batches run in parallel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from utils.data.tokenizing import encode_texts
from utils.generation.batching import Batching, run_halved

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHUNK = 1024  # rows held at once: enough to find rows of similar length, few enough to stream a large file
_CPU_BATCH_TOKENS = 512  # what fits into a core's cache per layer; a GPU needs more
_GPU_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Classified:
    """The answer for one row."""

    label: str | None
    """Name of the class; None for regression."""
    probabilities: dict[str, float]
    """Probabilities by class name, summing to 1; empty for regression."""
    value: float | None
    """The regression value; None for classes."""
    truncated: bool
    """Whether the row was cut at max_length."""
    num_tokens: int = 0
    """Number of tokens that the model read."""

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as written to files: a label with its probabilities, or a value."""
        answer: dict[str, Any] = {"value": self.value} if self.label is None else {"label": self.label}
        if self.probabilities:
            answer["probabilities"] = self.probabilities
        return answer | ({"truncated": True} if self.truncated else {})


class TextClassifier:
    """Classifies text with a model, its tokenizer and label names.

    The model must be on its device; it is put in evaluation mode. `label_names` are in the order of the ids, empty for
    regression. `max_batch_tokens` includes padding; None: suited to the device.
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
        self._inputs = input_names(model)
        self._names = tuple(label_names)
        self._max_length = max_length
        suitable = _CPU_BATCH_TOKENS if model.device.type == "cpu" else _GPU_BATCH_TOKENS
        self._batching = Batching(max_batch_tokens or suitable)

    def classify(self, rows: Iterable[tuple[str, ...]]) -> Iterator[Classified]:
        """Yield the classifications of rows of one or two texts, lazily and in their order."""
        stream = iter(rows)
        while chunk := list(islice(stream, _CHUNK)):
            yield from self._classify_chunk(chunk)

    def classify_batches(
        self, rows: Sequence[tuple[str, ...]], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Classified]]]:
        """Classify rows of one or two texts, longest first, in batches that do not depend on `done`.

        Yields indices into `rows` with their answers, batch by batch; a batch whose indices are all in `done` is
        skipped.
        """
        if not rows:
            return
        encoded, cut = encode_texts(list(zip(*rows, strict=True)), self._tokenizer, self._max_length)
        for batch in self.run_encoded(encoded, done):
            yield [(row, self._read(each, cut[row], len(encoded["input_ids"][row]))) for row, each in batch]

    def run_encoded(
        self, encoded: Mapping[str, Sequence[Any]], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield rows of token ids by index, batch by batch, with their probabilities, or one value each.

        `encoded` has the rows by model input, as a tokenizer returns them; `done` is as in `classify_batches`.
        """
        lengths = [len(ids) for ids in encoded["input_ids"]]
        wanted = [batch for batch in self._batching.plan(lengths) if not all(row in done for row in batch)]

        def run(batch: Sequence[int]) -> list[list[float]]:
            return run_halved(lambda part: self._forward(encoded, part), batch, "rows")

        for batch, found in zip(wanted, run_side_by_side(self._model, run, wanted), strict=True):
            yield list(zip(batch, found, strict=True))

    def _classify_chunk(self, rows: list[tuple[str, ...]]) -> list[Classified]:
        answers = {row: answer for batch in self.classify_batches(rows) for row, answer in batch}
        return [answers[row] for row in range(len(rows))]

    def _forward(self, encoded: Any, batch: Sequence[int]) -> list[list[float]]:
        """Compute each row's probabilities, or its value."""
        import torch

        from utils.generation.decoding import require_finite

        rows = [{key: encoded[key][row] for key in encoded if key in self._inputs} for row in batch]
        inputs = self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits.float().cpu()
        require_finite(logits)
        values = logits.softmax(dim=-1) if self._names else logits.reshape(-1, 1)
        probabilities: list[list[float]] = values.tolist()
        return probabilities

    def _read(self, values: list[float], truncated: bool, num_tokens: int) -> Classified:
        if not self._names:
            return Classified(None, {}, values[0], truncated, num_tokens)
        best = max(range(len(values)), key=values.__getitem__)
        shares = dict(zip(self._names, values, strict=True))
        return Classified(self._names[best], shares, None, truncated, num_tokens)


def input_names(model: PreTrainedModel) -> frozenset[str]:
    """Return the arguments of the model's forward; other columns are dropped, as the Trainer does."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(signature(plain.forward).parameters)


Item = TypeVar("Item")
Result = TypeVar("Result")


def run_side_by_side(model: PreTrainedModel, run: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Run a function on every item; on a CPU, as many at a time as torch has threads, if there are enough items.

    Each gets one core, as small matrices shared by many cores are slower. A quantized model runs alone, since its
    layers repack themselves at their first use. `run` must not modify shared state. Results are in the items' order.
    """
    import torch

    num_threads = torch.get_num_threads()
    alone = model.device.type != "cpu" or getattr(model, "is_quantized", False)
    if alone or num_threads == 1 or len(items) < 2 * num_threads:
        yield from map(run, items)
        return
    torch.set_num_threads(1)  # otherwise each of the pool's threads would start as many of its own
    pool = ThreadPoolExecutor(num_threads)
    try:
        yield from pool.map(run, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)
