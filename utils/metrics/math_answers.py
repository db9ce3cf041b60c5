"""Metrics of answers to word problems, with the public benchmarks' rules for extracting answers from text."""

from __future__ import annotations

import re
from fractions import Fraction

from utils.metrics.metric import Metric, build_text_metric

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_LM_EVAL_IGNORED = tuple(re.compile(pattern) for pattern in (r",", r"\$", r"(?s).*#### ", r"\.$"))
_META_MATH_MARK = "The answer is: "
_META_MATH = re.compile(r"[\-+]?\d*[\.,/]?\d+")


def find_strict(text: str) -> str | None:
    """Return the number after the first `#### `, cleaned as in lm-eval, or None.

    The rule of openai/grade-school-math (grade_school_math/dataset.py) and of `strict-match` in lm-eval's `gsm8k`,
    version 3. `#### $18` has no answer, since a digit must follow the mark.
    """
    found = _STRICT.search(text)
    return clean_answer(found[1].strip()) if found else None


def find_flexible(text: str) -> str | None:
    """Return the last number anywhere, cleaned: `flexible-extract` in lm-eval's `gsm8k`, version 3."""
    found = _FLEXIBLE.findall(text)
    return clean_answer(next(part for part in found[-1] if part).strip()) if found else None


def find_meta_math(text: str) -> int | None:
    """Return the rounded number after the last `The answer is: `, like meta-math/MetaMath (eval_gsm8k.py).

    Its quirks are kept: colon, space and case are significant; only one group of thousands is read, so 1,234,567 is
    1234; halves are rounded to even; a fraction is divided and rounded, a/0 is a. Where that script would fail with an
    error (3/00, a number beyond a float), there is no answer.
    """
    _, mark, rest = text.rpartition(_META_MATH_MARK)
    found = _META_MATH.search(rest.strip()) if mark else None
    if not found:
        return None
    try:
        return _round_number(found[0])
    except (OverflowError, ValueError, ZeroDivisionError):
        return None


def find_whole_reference(text: str) -> int | None:
    """Return the whole number that a reference states as its answer, for comparison with `find_meta_math`.

    It follows the first `#### ` or, without such a mark, is everything after the last `The answer is: `. None if there
    is neither, or the answer is not a whole number (MATH's formulas), since the rule rounds and could not distinguish
    it.
    """
    _, mark, rest = text.rpartition(_META_MATH_MARK)
    answer = find_strict(text) or (clean_answer(rest.strip()) if mark else "")
    whole = re.fullmatch(r"([-+]?\d+)(\.0*)?", answer)
    return int(whole[1]) if whole and len(whole[1]) < 300 else None


def clean_answer(answer: str) -> str:
    """Remove what lm-eval ignores: commas, dollar signs, all up to the last `#### `, a final full stop, case."""
    for pattern in _LM_EVAL_IGNORED:
        answer = pattern.sub("", answer)
    return answer.lower()


def score_em_strict(prediction: str, reference: str) -> float | None:
    """Compare the strict answers as strings, like lm-eval's `gsm8k` (strict-match); "5.00" does not equal "5".

    None if the reference has no answer.
    """
    gold = find_strict(reference)
    return None if gold is None else float(find_strict(prediction) == gold)


def score_em_flexible(prediction: str, reference: str) -> float | None:
    """Compare the last number with the reference's as strings, like lm-eval's `gsm8k` (flexible-extract).

    None if the reference has no answer after `#### `.
    """
    gold = find_strict(reference)
    return None if gold is None else float(find_flexible(prediction) == gold)


def score_em_metamath(prediction: str, reference: str) -> float | None:
    """Compare rounded numbers like meta-math/MetaMath (eval_gsm8k.py).

    None if the reference states no whole number.
    """
    gold = find_whole_reference(reference)
    if gold is None:
        return None
    found = find_meta_math(prediction)
    return float(found is not None and float(found) == float(gold))


def score_invalid(prediction: str, reference: str) -> float:
    """Return 1 for a prediction without a strict answer, which em_strict cannot read, else 0."""
    return float(find_strict(prediction) is None)


def _round_number(written: str) -> int | None:
    if "/" not in written:
        return round(float(written.replace(",", "")))
    numerator, denominator = written.split("/")
    if not numerator.strip("+-"):
        return None
    if denominator == "0":
        return round(float(numerator))
    fraction = Fraction(written)
    return round(fraction.numerator / fraction.denominator)


TABLE: dict[str, Metric] = {
    "em_strict": build_text_metric("em_strict", score_em_strict, "share of answers whose number after #### is right"),
    "em_flexible": build_text_metric("em_flexible", score_em_flexible, "share of answers whose last number is right"),
    "em_metamath": build_text_metric(
        "em_metamath", score_em_metamath, "share of answers whose number after 'The answer is: ' is right"
    ),
    "invalid_rate": build_text_metric(
        "invalid_rate", score_invalid, "share of answers without a number after ####", greater_is_better=False
    ),
}
