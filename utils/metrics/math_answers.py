"""The rules by which an answer to a word problem is read out of text, as the public benchmarks have them."""

from __future__ import annotations

import re
from fractions import Fraction

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_LM_EVAL_IGNORED = tuple(re.compile(pattern) for pattern in (r",", r"\$", r"(?s).*#### ", r"\.$"))
_META_MATH_MARK = "The answer is: "
_META_MATH = re.compile(r"[\-+]?\d*[\.,/]?\d+")


def find_strict(text: str) -> str | None:
    """Find the number after the first `#### `, cleaned as lm-eval cleans it; None where there is none.

    The rule of openai/grade-school-math (grade_school_math/dataset.py) and of `strict-match` in lm-eval's `gsm8k`,
    version 3. `#### $18` has no answer, since the mark must be followed by a digit.
    """
    found = _STRICT.search(text)
    return clean_answer(found[1].strip()) if found else None


def find_flexible(text: str) -> str | None:
    """Find the last number anywhere, cleaned: `flexible-extract` in lm-eval's `gsm8k`, version 3."""
    found = _FLEXIBLE.findall(text)
    return clean_answer(next(part for part in found[-1] if part).strip()) if found else None


def find_meta_math(text: str) -> int | None:
    """Find the number after the last `The answer is: ` and round it, as meta-math/MetaMath (eval_gsm8k.py) does.

    Its quirks are kept: the colon and the space are needed and case counts; only one group of thousands is read, so
    1,234,567 is 1234; halves are rounded to even; a fraction is divided and rounded, a/0 is a. Where that script
    would stop with an error (3/00, a number beyond a float) there is no answer.
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
    """Find the whole number that a reference gives as its answer, for comparison with `find_meta_math`.

    It stands after the first `#### ` or, where there is no such mark, is all that follows the last
    `The answer is: `. None where there is neither, or the answer is not a whole number (MATH's formulas): the rule
    rounds and could not tell it from others.
    """
    _, mark, rest = text.rpartition(_META_MATH_MARK)
    answer = find_strict(text) or (clean_answer(rest.strip()) if mark else "")
    whole = re.fullmatch(r"([-+]?\d+)(\.0*)?", answer)
    return int(whole[1]) if whole and len(whole[1]) < 300 else None


def clean_answer(answer: str) -> str:
    """Delete what lm-eval ignores: commas, dollar signs, all up to the last `#### `, a full stop at the end; lower."""
    for pattern in _LM_EVAL_IGNORED:
        answer = pattern.sub("", answer)
    return answer.lower()


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
