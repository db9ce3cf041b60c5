"""Secrets are never written; text that only looks like one stays readable."""

from __future__ import annotations

import pytest

from utils.core.secrets import (
    MASK,
    holds_secret,
    learn_command,
    learn_text,
    mask_command,
    mask_text,
    mask_tree,
    mask_value,
)

TOKEN = "hf_" + "AbCd1234" * 4


@pytest.mark.parametrize(
    "words",
    [
        [f"model.token={TOKEN}"],
        ["--hf_token", TOKEN],
        ["--hf-token", "short"],
        [f"--hub_token={TOKEN}"],
        ["model.use_auth_token=secret-word"],
        [f"note=see {TOKEN} there"],
        [TOKEN],
        ["hf_abcd"],
        ["--password", "short"],
        ["env.WANDB_API_KEY=0123456789"],
        ["dataset.path=https://user:short@example.org/x"],
        ["--server", "https://user:short@example.org/v1?page=2"],
        ["https://example.org/x?token=short"],
        ["--hf_token", "short="],
    ],
)
def test_secrets_are_hidden(words: list[str]) -> None:
    shown = " ".join(mask_command(words))
    assert MASK in shown
    for secret in (TOKEN, "short", "secret-word", "hf_abcd", "0123456789"):
        assert secret not in shown


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--config", "configs/x.yaml", "model.token=true", "model.token=null"],
        ["generation.max_new_tokens=256", "model.pad_token=<pad>", "model.extra_special_tokens=[<a>]"],
        ["--token", "--resume"],
        ["hf_results.json", "outputs/hf_run", "--hf_token"],
        ["dataset.path=https://example.org/x@y"],
    ],
)
def test_ordinary_words_are_kept(words: list[str]) -> None:
    assert mask_command(words) == words


def test_values_that_are_not_text_are_kept() -> None:
    assert mask_value("model.token", True) is True
    assert mask_value("seed", 42) == 42


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https:/u:PW@h/x", "https:/***@h/x"),
        ("https://u:p@ss@h/x?a=1&token=abc&b=2", "https://***@h/x?a=1&token=***&b=2"),
        ("https://h/x?X-Amz-Signature=0af&key=k", "https://h/x?X-Amz-Signature=***&key=***"),
        ("password=hunter2, then", "password=***, then"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("ghp_" + "a1" * 10, "***"),
        ("max_new_tokens=256 and tokenizer=x and key=value", "max_new_tokens=256 and tokenizer=x and key=value"),
        ("https://example.org/x@y?page=2", "https://example.org/x@y?page=2"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert mask_text(text) == shown
    assert holds_secret(text) is (text != shown)


def test_a_padded_key_after_its_option_is_remembered() -> None:
    learn_command(["--hub_token", "c2hvcnQtc2VjcmV0=="])
    assert mask_text("refused: c2hvcnQtc2VjcmV0==") == "refused: ***"


def test_a_remembered_secret_is_hidden_everywhere() -> None:
    learn_command(["--hub_token", "short1", "model.password=it's \\ mine", "--run", "https://me:Zx9@h/y"])
    learn_text("https://h/?sig=0a1b2c and ssh://git@h/x")
    assert mask_text("the word short1 and shorter1, Zx9 and Zx99") == "the word *** and shorter1, *** and Zx99"
    assert mask_text(repr("it's \\ mine")) == '"***"'
    assert mask_text("sig 0a1b2c of git") == "sig *** of git"
    tree = {"short1": ["short1", 1], "answers": ["short1"]}
    assert mask_tree(tree, but=("answers",)) == {"***": ["***", 1], "answers": ["short1"]}
    assert not holds_secret("short1")
