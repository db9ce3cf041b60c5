"""The preview shows which tokens are trained on."""

from __future__ import annotations

import pytest

from utils.data.encoded_rows import format_preview, render_preview

CHAT = {
    "messages": [
        {"role": "user", "content": "Hello \u4f60"},
        {"role": "assistant", "content": "[bold]Hi[/bold]"},
        {"role": "user", "content": "More"},
        {"role": "assistant", "content": "Bye"},
    ]
}


@pytest.fixture
def rows(write_lines, prepare_set):
    return prepare_set("custom", write_lines("rows.jsonl", [CHAT] * 3), "chatml").train


def test_in_plain_text_trained_parts_are_in_brackets(rows, text_tokenizer):
    text = format_preview(rows, text_tokenizer("chatml"), 2)
    assert text.count("row ") == 2
    assert f"row 1 of 3: {rows[0]['length']} tokens, 20 trained on" in text
    assert "user\nHello \u4f60<|im_end|>" in text
    assert "assistant\n[[[bold]Hi[/bold]<|im_end|>]]\n<|im_start|>user" in text
    assert text.endswith("[[Bye<|im_end|>]]\n")


def test_on_a_terminal_trained_parts_are_green_and_the_rest_dim(rows, text_tokenizer):
    text = render_preview(rows, text_tokenizer("chatml"), 5)
    styles = {(text.plain[span.start : span.end], span.style) for span in text.spans}
    assert ("[bold]Hi[/bold]<|im_end|>", "green") in styles
    assert ("Bye<|im_end|>", "green") in styles
    assert any("Hello" in part and style == "dim" for part, style in styles)
    assert sum(style == "bold" for _, style in styles) == 3
