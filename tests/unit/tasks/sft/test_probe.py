"""Probe rows encode to the tokens that their examples were trained on, including rows from earlier versions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from utils.data.dataset import Example
from utils.data.encoding import MASKED, ExampleEncoder
from utils.modeling.tokenizer import CHATML
from utils.tasks.sft.probe import _encode_row, _run

BASE = Path(__file__).parents[4] / "examples" / "quickstart" / "base"
TURNS = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate("abcd")]


@pytest.fixture(scope="module")
def encoder():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    calls = "{% for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}{{ '<|im_end|>"
    listed = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    tokenizer.chat_template = listed + CHATML.replace(" + '<|im_end|>", " }}" + calls)
    return ExampleEncoder(tokenizer, 256)


def test_a_stored_example_equals_the_example(encoder):
    excluded = ({**TURNS[1], "train": False}, *TURNS[2:])
    for example in (Example("2 + 2 =", " 4"), Example(messages=(TURNS[0], *excluded), unread=("mood",))):
        encoded = encoder.encode(example)
        assert _encode_row(json.loads(json.dumps(asdict(example))), encoder) == (encoded.input_ids, encoded.labels)


def test_a_stored_example_keeps_its_tools(encoder):
    tools = ({"type": "function", "function": {"name": "add"}},)
    row = json.loads(json.dumps(asdict(Example(messages=tuple(TURNS[:2]), tools=tools))))
    assert '"add"' in encoder.tokenizer.decode(_encode_row(row, encoder)[0])


def test_a_row_of_an_earlier_version_keeps_its_context(encoder):
    row = {"prompt": "", "answer": "", "question": "", "user_turn": "", "messages": TURNS, "num_context": 3,
           "num_cut_turns": 0, "judged_by": "", "plain": False, "context": ""}  # fmt: skip
    ids, labels = _encode_row(row, encoder)
    trained = encoder.tokenizer.decode([label for label in labels if label != MASKED])
    assert trained == "d<|im_end|>"
    assert ids == encoder.encode(Example(messages=tuple(TURNS))).input_ids


def test_virtual_tokens_are_not_counted_as_positions_of_the_text():
    import torch
    from peft import PromptEncoderConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE, trust_remote_code=False), config).eval()
    ids, labels = [5, 6, 7, 8], [MASKED, MASKED, 7, 8]
    answers = _run(model, [(ids, labels)], 2, with_loss=True)
    given = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
    assert answers.logits == pytest.approx(given.logits[0, [6, 8]].detach().numpy(), abs=1e-5)
    assert answers.score["loss"] == pytest.approx(float(given.loss), abs=1e-5)
