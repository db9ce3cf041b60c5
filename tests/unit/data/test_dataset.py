"""Which dataset a name refers to: a built-in one, in any spelling, or one of the hub."""

from __future__ import annotations

from utils.data.dataset import find_dataset_plugin


def test_hub_names_find_their_dataset():
    assert [find_dataset_plugin(name) for name in ("GSM8K", "OpenAI/gsm8k", "glue", "x/y", "rows.jsonl")] == [
        "gsm8k", "gsm8k", "glue", None, None,
    ]  # fmt: skip


def test_another_spelling_of_a_dataset_is_not_a_path(make_sft):
    assert make_sft(dataset={"name": "Code-Feedback", "path": None}).dataset.path is None
