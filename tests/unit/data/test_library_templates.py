"""The chat templates of real models, as trl ships them: every answer is trained on once, as the template renders it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trl

from utils.core.errors import ModelError
from utils.core.texts import RowError
from utils.data.dataset import Example
from utils.data.encoding import MASKED, ExampleEncoder

FILES = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
WORKING = {
    "cohere", "gemma", "gemma3", "gemma4", "glm4moe_training", "gptoss", "lfm2", "llama3", "llama3_1", "llama3_2",
    "phi3", "phi3_5", "qwen2_5", "qwen3", "qwen3_training", "qwen3_instruct_2507", "qwen3_5_think",
}  # fmt: skip
CALLING = {
    "gemma4", "glm4moe_training", "gptoss", "lfm2_v2", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_training",
    "qwen3_instruct_2507",
}  # fmt: skip
TURNS = (
    {"role": "user", "content": "ASKONE"},
    {"role": "assistant", "content": "ANSWERONE"},
    {"role": "user", "content": "ASKTWO"},
    {"role": "assistant", "content": "ANSWERTWO"},
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": "CALLED"}}}
TOOLS = ({"type": "function", "function": {"name": "add", "description": "d", "parameters": {
    "type": "object", "properties": {"a": {"type": "string", "description": "d"}}, "required": ["a"]}}},)  # fmt: skip
USING = (
    TURNS[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "RESULT"},
    {"role": "assistant", "content": "ANSWERTWO"},
)


@pytest.fixture
def encode(text_tokenizer):
    def run(file: Path, example: Example):
        tokenizer = text_tokenizer()
        tokenizer.chat_template = file.read_text("utf-8")
        marks = set(re.findall(r"<[|\uff5c/]?[\w\uff5c\u2581]+[|\uff5c]?>", tokenizer.chat_template)) - {"<s>", "</s>"}
        tokenizer.add_special_tokens({"extra_special_tokens": sorted(marks)})
        encoder = ExampleEncoder(tokenizer, 100_000)
        try:
            [rows] = encoder.encode_many([example])
        except ModelError as error:
            return error
        if isinstance(rows, RowError):
            return rows
        texts = [tokenizer.decode(row.input_ids) for row in rows]
        trained = [tokenizer.decode([label for label in row.labels if label != MASKED]) for row in rows]
        return encoder, texts, trained

    return run


def written(encoder, example: Example) -> list[str]:
    """Render a conversation up to each of its answers by the library alone."""
    ends = [index + 1 for index, turn in enumerate(example.messages) if turn["role"] == "assistant"]
    tools = list(example.tools) or None
    return [encoder.tokenizer.apply_chat_template(list(example.messages[:end]), tools=tools, tokenize=False)
            for end in ends]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_conversation(encode, file):
    example = Example(messages=TURNS)
    found = encode(file, example)
    if isinstance(found, Exception):
        assert file.stem not in WORKING, found
        assert any(said in str(found) for said in ("model.chat_template", "leaves out the text", "refuses"))
        return
    encoder, texts, trained = found
    whole = written(encoder, example)
    assert all(any(each.startswith(text) for each in whole) for text in texts)
    assert len(texts) in (1, 2)
    for answer in ("ANSWERONE", "ANSWERTWO"):
        assert sum(text.count(answer) for text in trained) == 1
    assert not any("ASK" in text for text in trained)
    prompt = encoder.tokenizer.decode(encoder.encode_prompt(example))
    assert texts[-1].startswith(prompt)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_tool_calls_and_results(encode, file):
    example = Example(messages=USING, tools=TOOLS)
    found = encode(file, example)
    if isinstance(found, Exception):
        assert file.stem not in CALLING, found
        return
    encoder, texts, trained = found
    assert all(any(each.startswith(text) for each in written(encoder, example)) for text in texts)
    for answer in ("CALLED", "ANSWERTWO"):
        assert sum(text.count(answer) for text in trained) == 1
    assert not any("RESULT" in text or "ASK" in text for text in trained)
    last = [
        next(label for label in reversed(row.labels) if label != MASKED) for row in encoder.encode_many([example])[0]
    ]
    assert set(last) <= set(encoder.stop_token_ids)
