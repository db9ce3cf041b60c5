"""Truncation keeps the answer."""

from __future__ import annotations

import pytest

from utils.data.text_tokens import Exchange, cut_middle, fit_exchanges


def numbers(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


def test_the_middle_of_a_prompt_is_removed_and_both_ends_stay():
    assert cut_middle(numbers(0, 10), 5) == [0, 1, 2, 8, 9]
    assert cut_middle(numbers(0, 10), 4) == [0, 1, 8, 9]
    assert cut_middle(numbers(0, 10), 1) == [0]
    assert cut_middle(numbers(0, 4), 4) == numbers(0, 4)


@pytest.mark.parametrize("num_answer", [1, 5, 15, 16, 17, 300])
@pytest.mark.parametrize("max_length", [8, 20, 33])
def test_a_long_prompt_never_displaces_the_answer(num_answer, max_length):
    for num_prompt in (0, 1, 7, 40, 1000):
        check_one_exchange(num_prompt, num_answer, max_length)


def check_one_exchange(num_prompt, num_answer, max_length):
    prompt, answer = numbers(0, num_prompt), numbers(5000, num_answer)
    fitted = fit_exchanges([Exchange(prompt, answer)], max_length)
    [only] = fitted.exchanges
    assert len(only) == min(max_length, num_prompt + num_answer), "no more is cut than necessary"
    assert only.answer == answer[: len(only.answer)]
    if num_answer <= max_length - max_length // 4:
        assert only.answer == answer
    if fitted.answer_cut:
        assert len(only.prompt) <= max_length // 4
    assert fitted.prompt_cut == num_prompt - len(only.prompt)
    assert fitted.answer_cut == num_answer - len(only.answer)


def test_later_turns_are_removed_first():
    exchanges = [Exchange(numbers(100 * n, 4), numbers(100 * n + 50, 3)) for n in range(3)]
    fitted = fit_exchanges(exchanges, 15)
    assert fitted.exchanges == exchanges[:2]
    assert (fitted.exchanges_cut, fitted.prompt_cut, fitted.answer_cut) == (1, 0, 0)
    fitted = fit_exchanges(exchanges, 6)
    assert fitted.exchanges == [Exchange([0, 1, 3], [50, 51, 52])]
    assert (fitted.exchanges_cut, fitted.prompt_cut) == (2, 1)
