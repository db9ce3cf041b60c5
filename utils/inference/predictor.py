"""Predictors: from batches of questions to the keys of output rows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.config.sections.dataset import ClassificationSection
from utils.config.sections.generation import GenerationSection
from utils.core.errors import LoraNsError, ModelError
from utils.core.texts import RowError
from utils.data.encoding import Encoded, ExampleEncoder
from utils.data.preference_encoding import EncodedPair, PairEncoder
from utils.data.tokenizing import fingerprint_tokenizer
from utils.evaluation.identity import hash_model
from utils.evaluation.prompts import PromptLimits, encode_within
from utils.generation.backend import Generated, generate_batches, open_backend
from utils.generation.classification import Classified, TextClassifier
from utils.generation.model_state import find_window, place_model
from utils.generation.server import ServedModel
from utils.inference.prompt_builder import ChatPromptBuilder, PromptBuilder
from utils.runs.model_ref import ModelRef
from utils.tasks.sft.section import build_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.data.dataset import Example


@dataclass(frozen=True)
class Answered:
    """The answer to one question of a window."""

    place: int
    """Index in the window."""
    answer: dict[str, Any]
    """Keys of the output row."""
    num_tokens: int
    """Tokens read (classification) or generated."""


@dataclass(frozen=True)
class Prompt:
    """The prompt of a language model."""

    ids: list[int]
    """Token ids."""
    truncated: bool = False
    """Whether its middle was cut."""


_NO_NUMBER = {"error": "the model's answer is not a number (NaN or infinite)"}
_WINDOW = 1024  # rows from which those of similar length are batched


class ClassifyingModel:
    """Predicts labels or values of texts of at most `max_length` tokens; `label_names` is empty for regression."""

    window = _WINDOW

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label_names: Sequence[str],
        max_length: int,
    ) -> None:
        self.tokenizer = tokenizer
        self._classifier = TextClassifier(model, tokenizer, label_names, max_length)
        self._model = model
        self._settings = [fingerprint_tokenizer(tokenizer), list(label_names), max_length]

    def encode(self, question: tuple[str, ...]) -> tuple[str, ...]:
        """Return the texts unchanged: they are encoded together."""
        return question

    def answer(
        self, questions: Sequence[tuple[str, ...]], numbers: Sequence[int], done: Collection[int]
    ) -> Iterator[list[Answered]]:
        """Classify a window, batch by batch, skipping batches whose rows are all done."""
        with _explain_memory():
            for batch in self._classifier.classify_batches(questions, done):
                yield [Answered(place, _read_classified(each), each.num_tokens) for place, each in batch]

    def describe(self) -> dict[str, Any]:
        """Return what determines the answers: weights, tokenizer, labels and length."""
        return {"model": hash_model(self._model), "settings": self._settings}


class RewardModel:
    """Scores answers to prompts, or both answers of pairs."""

    window = _WINDOW

    def __init__(self, model: PreTrainedModel, encoder: ExampleEncoder) -> None:
        self.tokenizer = encoder.tokenizer
        self._classifier = TextClassifier(model, encoder.tokenizer, (), encoder.max_length)
        self._model, self._encoder = model, encoder

    def encode(self, question: Example) -> Encoded:
        """Encode a prompt with its answer, or with both."""
        try:
            found = self._encoder.encode(question)
        except ModelError as error:  # no chat template: other rows may not be conversations
            raise RowError(str(error)) from error
        if found.too_long:
            raise RowError(f"is longer than {self._encoder.length_key} ({self._encoder.max_length} tokens)")
        if not found.is_usable:
            raise RowError("has an empty answer")
        return found

    def answer(
        self, questions: Sequence[Encoded], numbers: Sequence[int], done: Collection[int]
    ) -> Iterator[list[Answered]]:
        """Score a window, batch by batch; a row is answered when all its texts are."""
        texts = [(place, ids) for place, each in enumerate(questions) for ids in _list_texts(each)]
        known = [number for number, (place, _) in enumerate(texts) if place in done]
        found: dict[int, dict[int, float]] = {}
        with _explain_memory():
            for batch in self._classifier.run_encoded({"input_ids": [ids for _, ids in texts]}, known):
                for number, [reward] in batch:
                    found.setdefault(texts[number][0], {})[number] = reward
                whole = [place for place in dict.fromkeys(texts[number][0] for number, _ in batch)
                         if len(found[place]) == len(_list_texts(questions[place]))]  # fmt: skip
                yield [_read_rewards(place, questions[place], found[place]) for place in whole]

    def describe(self) -> dict[str, Any]:
        """Return what determines the answers: the weights, and the processing of texts."""
        return {"model": hash_model(self._model), "settings": ["rewards", self._encoder.fingerprint]}


def _list_texts(question: Encoded) -> list[list[int]]:
    return [question.input_ids, *([[*question.rejected_ids]] if isinstance(question, EncodedPair) else [])]


def _read_rewards(place: int, question: Encoded, found: Mapping[int, float]) -> Answered:
    names = ("reward_chosen", "reward_rejected") if len(found) > 1 else ("reward",)
    answer: dict[str, Any] = dict(zip(names, (found[number] for number in sorted(found)), strict=True))
    if not all(map(math.isfinite, found.values())):
        answer = _NO_NUMBER
    elif question.prompt_cut or question.answer_cut:
        answer |= {"truncated": True}
    return Answered(place, answer, question.num_tokens)


class WritingModel:
    """Generates answers to prompts; the seed determines the sampling at a temperature above 0."""

    window = _WINDOW

    def __init__(
        self,
        model: PreTrainedModel | ServedModel,
        encoder: ExampleEncoder,
        prompt_builder: ChatPromptBuilder,
        generation: GenerationSection,
        seed: int,
    ) -> None:
        ends = _find_ends(encoder)
        self.tokenizer = encoder.tokenizer
        self._model = model
        self._encoder = encoder
        self._prompt_builder = prompt_builder
        self._limits = PromptLimits(generation.max_new_tokens, find_window(model), official=True)
        self._backend = open_backend(model, encoder.tokenizer, generation, prompt_builder.stop, ends, seed=seed)
        settings = {**generation.answer_settings(), "stop": sorted({*generation.stop, *prompt_builder.stop})}
        self._settings = [settings, list(ends), seed if generation.temperature else 0, encoder.fingerprint]

    def encode(self, question: Example) -> Prompt:
        """Encode a prompt; a long one loses its middle only if the evaluation of the run's set does the same."""
        try:
            prompt = self._encode_official(question) if self._prompt_builder.official_truncation else None
            prompt = prompt or Prompt(self._encoder.encode_prompt(question))
        except ModelError as error:  # no chat template: other rows may not be conversations
            raise RowError(str(error)) from error
        if reason := self._backend.explain_refusal(len(prompt.ids)):
            raise RowError(f"the prompt {reason}")
        return prompt

    def answer(
        self, questions: Sequence[Prompt], numbers: Sequence[int], done: Collection[int]
    ) -> Iterator[list[Answered]]:
        """Generate the answers of a window."""
        prompts = [each.ids for each in questions]
        with _explain_memory():
            planned = self._backend.plan_batches(prompts)
            batches = [batch for batch in planned if not all(place in done for place in batch)]
            for batch in generate_batches(self._backend, prompts, batches, numbers):
                yield [_read_generated(place, questions[place], each) for place, each in batch]

    def stream(self, question: Example, show: Callable[[str], None]) -> Answered:
        """Answer one question, and show the answer while it is generated."""
        prompt = self.encode(question)
        with _explain_memory():
            return _read_generated(0, prompt, self._backend.stream(prompt.ids, show))

    def describe(self) -> dict[str, Any]:
        """Return what determines the answers: the weights, the settings, and the processing of prompts."""
        return {"model": hash_model(self._model), "settings": self._settings}

    def _encode_official(self, question: Example) -> Prompt | None:
        """Encode a prompt as the evaluation of the run's set does; None: it is a conversation."""
        if question.messages:
            return None
        as_chat = self._encoder.as_chat and not self._prompt_builder.chat_exempt
        return Prompt(*encode_within(self._encoder, question, self._limits, as_chat))


Predictor: TypeAlias = ClassifyingModel | RewardModel | WritingModel


def _find_ends(encoder: ExampleEncoder) -> tuple[int, ...]:
    try:
        return encoder.stop_token_ids
    except ModelError:  # an unusual chat template; nothing is trained, and the model has its own end tokens
        return ()


def _read_classified(answer: Classified) -> dict[str, Any]:
    numbers = [*answer.probabilities.values(), *([] if answer.value is None else [answer.value])]
    if not all(map(math.isfinite, numbers)):
        return _NO_NUMBER
    return answer.to_dict()


def _read_generated(place: int, prompt: Prompt, written: Generated) -> Answered:
    answer = {"answer": written.text, "finished": written.finished, "num_tokens": written.num_tokens}
    return Answered(place, answer | ({"truncated": True} if prompt.truncated else {}), written.num_tokens)


@contextmanager
def _explain_memory() -> Iterator[None]:
    """Turn a lack of memory for a single row into a UserError."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise LoraNsError(
            "the memory does not hold even one row at a time; shorten the rows or the answers (--max_new_tokens), or "
            "load the model in fewer bits"
        ) from error


def load_predictor(
    model: ModelRef,
    prompt_builder: PromptBuilder,
    generation: GenerationSection,
    seed: int,
    served: ServedModel | None = None,
) -> Predictor:
    """Load a model onto its device, or only the tokenizer for a model that is `served`."""
    tokenizer = model.load_tokenizer()
    loaded: Any = served or place_model(model.load_model(tokenizer))
    if model.judges:
        assert model.config is not None, "of a run"
        return RewardModel(loaded, build_encoder(model.config, tokenizer, PairEncoder))
    if not model.generates:
        return ClassifyingModel(loaded, tokenizer, model.label_names, _find_max_length(model, loaded, tokenizer))
    assert isinstance(prompt_builder, ChatPromptBuilder), f"got {type(prompt_builder)}"
    if model.config is not None:
        encoder = build_encoder(model.config, tokenizer)
    else:
        encoder = ExampleEncoder(tokenizer, sys.maxsize, as_chat=bool(tokenizer.chat_template))
    return WritingModel(loaded, encoder, prompt_builder, generation, seed)


def _find_max_length(model: ModelRef, loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the maximum tokens of a classifier's rows: the run's, else the tokenizer's or the model's own."""
    if model.config is not None:
        return model.config.section(ClassificationSection).max_length
    config = loaded.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= int(config.pad_token_id or 0) + 1  # its positions start after the pad id
    limits = [int(tokenizer.model_max_length), *([positions] if isinstance(positions, int) else [])]
    known = [limit for limit in limits if 0 < limit < 10**9]
    return min(known, default=512)
