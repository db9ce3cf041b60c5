"""Evaluation prompts that stand in the training rows are counted and warned of."""

from __future__ import annotations

from types import SimpleNamespace

from datasets import Dataset

from utils.trainer.prompt_index import warn_of_known_prompts


def _rows(*prompts):
    answer = [7, 8]
    return Dataset.from_list(
        [{"input_ids": [*each, *answer], "labels": [-100] * len(each) + answer} for each in prompts]
    )


def test_a_prompt_is_what_stands_before_the_first_trained_token(caplog):
    train = _rows([1, 2, 3], [1, 2], [4])
    own = SimpleNamespace(label="own", prompts=[[1, 2], [4, 4], [4]])
    other = SimpleNamespace(label="other", prompts=[[1], [9]])
    assert warn_of_known_prompts(train, [own, other]) == {"own": 2}
    assert "own: 2 of 3 prompts stand in the training rows too" in caplog.text
    assert "other" not in caplog.text


def test_without_sets_nothing_is_read():
    assert warn_of_known_prompts(_rows([1]), []) == {}
