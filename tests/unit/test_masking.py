"""No secret is written down; what only looks like one stays readable."""

from __future__ import annotations

import pytest

from utils.masking import MASK, mask_command, mask_value

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
def test_other_words_stay(words: list[str]) -> None:
    assert mask_command(words) == words


def test_values_that_are_no_text_stay() -> None:
    assert mask_value("model.token", True) is True
    assert mask_value("seed", 42) == 42
