"""Streamed text is the answer, and never more than it."""

from __future__ import annotations

import pytest
import torch

from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError
from utils.generation.backends.transformers import Backend
from utils.generation.decoding import AnswerStream


@pytest.mark.parametrize("stop", [[], ["a "], ["tha"], ["."], ["wrong."]])
def test_pieces_join_to_the_answer(quickstart, stop):
    model, tokenizer = quickstart
    prompt = tokenizer("A boy with a car is")["input_ids"]
    generator = Backend(model, tokenizer, GenerationSection(max_new_tokens=20), stop)
    ((_, whole),) = generator.generate_batch([prompt], [0])
    pieces = []
    assert generator.stream(prompt, pieces.append) == whole
    assert "".join(pieces) == whole.text
    assert not any(each in "".join(pieces) for each in stop)
    if not stop:
        assert len(pieces) > 3


def test_partial_characters_and_partial_stop_strings_are_held_back(load_tokenizer_of):
    tokenizer = load_tokenizer_of("qwen2")  # one token per byte
    pieces = []
    stream = AnswerStream(tokenizer, ["##x"], [0], pieces.append)
    stream.put(torch.tensor([[5, 6]]))
    for token in tokenizer("\u00e9a##b#")["input_ids"]:
        stream.put(torch.tensor([token]))
    stream.put(torch.tensor([0]))
    stream.end()
    assert pieces == ["\u00e9", "a", "##b"]
    stream.finish("\u00e9a##b#")
    assert pieces[-1] == "#"


def test_an_empty_prompt_is_refused(quickstart):
    with pytest.raises(DataError, match="the prompt is empty"):
        Backend(*quickstart, GenerationSection()).stream([], print)
