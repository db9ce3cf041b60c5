"""Reward models that score another model's answers, each with its own tokenizer and chat template."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError, UserError
from utils.core.texts import RowError
from utils.data.conversations import as_context
from utils.data.dataset import Example
from utils.data.encoding import ExampleEncoder
from utils.generation.classification import TextClassifier
from utils.modeling.base_model import load_base_model
from utils.modeling.head import build_head_spec, list_new_modules
from utils.modeling.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from utils.config.sections.dataset import InstructionSection

Judge = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], list[float]]
"""Returns the rewards of texts as answers to requests, each given as an example's fields without an answer."""


def describe_asked(example: Example) -> dict[str, Any]:
    """Return the fields of an example that make up the request; of a conversation, all before the last answer."""
    turns = example.messages
    before = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
    asked = {"prompt": example.prompt, "user_turn": example.user_turn, "plain": example.plain}
    return {**asked, "messages": before, "tools": example.tools}


def load_judge(name: str, rows: InstructionSection, device: str) -> Judge:
    """Load a full reward model, in its own precision, for answers to rows of a dataset.

    Raises:
        ModelError: Its checkpoint has no head with one output.
    """
    section = ModelSection(name_or_path=name, dtype="auto")
    tokenizer = load_tokenizer(section)
    model = load_base_model(section, tokenizer, build_head_spec(()))
    if new := list_new_modules(model):
        lacks = f"no trained head of one number ({', '.join(new)} would be random)"
        raise ModelError(f"grpo.reward_models: {name} has {lacks}")
    encoder = ExampleEncoder.build(tokenizer, rows, sys.maxsize)
    classifier = TextClassifier(model.to(device).requires_grad_(False), tokenizer, (), sys.maxsize)

    def judge(asked: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[float]:
        encoded = encoder.encode_many([_answer(*each) for each in zip(asked, texts, strict=True)])
        if refused := next((each for each in encoded if isinstance(each, RowError)), None):
            raise UserError(f"grpo.reward_models: {name} cannot read an answer: {refused}")
        ids = [each[-1].input_ids for each in encoded if not isinstance(each, RowError)]
        found = dict(pair for batch in classifier.run_encoded({"input_ids": ids}) for pair in batch)
        return [found[row][0] for row in range(len(ids))]

    return judge


def _answer(asked: Mapping[str, Any], text: str) -> Example:
    example = Example(**{**asked, "messages": tuple(asked["messages"]), "tools": tuple(asked["tools"])})
    if not example.messages:
        return replace(example, answer=text)
    return replace(example, messages=(*as_context(example.messages), {"role": "assistant", "content": text}))
