"""A chat template that is broken or never ends is refused in one sentence; encoding reacts to signals."""

from __future__ import annotations

import threading
import time

import pytest

from utils.core.errors import ModelError
from utils.core.time_limit import time_limit
from utils.data import chat
from utils.data.chat import ChatTemplate

TURNS = [{"role": "user", "content": "x"}]
ENDLESS = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{{ range(10 ** 9) | list }}", "OverflowError"),
    ],
)
def test_a_broken_template_is_refused_in_one_sentence(template, said, load_tokenizer_of):
    tokenizer = load_tokenizer_of("llama")
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=rf"^the chat template cannot be used \({said}.*set model.chat_template"):
        ChatTemplate(tokenizer).apply(TURNS, True)


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_looping_template_is_stopped(in_thread, load_tokenizer_of, monkeypatch):
    tokenizer = load_tokenizer_of("llama")
    tokenizer.chat_template = f"{ENDLESS}{in_thread}"
    monkeypatch.setattr(chat, "_TIME_LIMIT_S", 0.3)
    said: list[str] = []

    def try_it() -> None:
        with pytest.raises(ModelError) as raised:
            ChatTemplate(tokenizer).apply(TURNS, True)
        said.append(str(raised.value))

    started = time.monotonic()
    for _ in range(20):
        if in_thread:
            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()
        else:
            try_it()
    assert time.monotonic() - started < 5, "only the first attempt is waited for"
    assert len(said) == 20
    assert all("not done with a conversation" in each for each in said)


def test_work_within_the_time_limit_is_not_interrupted():
    for _ in range(3):
        with time_limit(0.6):
            time.sleep(0.1)
    time.sleep(1.2)
    with pytest.raises(TimeoutError), time_limit(0.1):
        sum(iter(lambda: 1, 0))
