r"""Metrics of formulas as answers, as in MATH: by string rules, Minerva's rules, and package math-verify.

The gold answer is the last `\boxed` of a worked solution; a reference without one is the answer itself.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from utils.core.errors import ConfigError, Problem
from utils.core.library_errors import is_of_library
from utils.core.time_limit import time_limit
from utils.metrics.metric import Metric, build_text_metric, require_package

_META_MATH_MARK = "The answer is: "
_CHANGED = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
)  # fmt: skip
_UNIT = "\\text{ "
_PLAIN_FRACTION = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")

_MINERVA_ANSWER = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")
_MINERVA_CHANGED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_MINERVA_DELETED = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}",
    "\\text{}", r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', "\\dots",
)  # fmt: skip
_MINERVA_SHORTENED = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),
        (r"\\text\{(.*?)\}", r"\1"),
        (r"\\textbf\{(.*?)\}", r"\1"),
        (r"\\overline\{(.*?)\}", r"\1"),
        (r"\\boxed\{(.*)\}", r"\1"),
        (r"frac([^{])(.)", r"frac{\1}{\2}"),
        (r"sqrt(\[[^\]]*\])(\w)", r"sqrt\1{\2}"),
        (r"sqrt(?!\[)([^{])", r"sqrt{\1}"),
    )
)
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")
_SECONDS = 5.0


def find_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed`, or else `\fbox`; None if there is none or its braces are unbalanced.

    `\boxed 3$`, as in some of MATH's solutions, holds everything up to the dollar sign.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].split("$")[0]
    start = text.rfind("\\boxed") if "\\boxed" in text else text.rfind("\\fbox")
    if start < 0 or not text.startswith(("\\boxed{", "\\fbox{"), start):
        return None
    depth, opening = 0, text.index("{", start)
    for place in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[opening + 1 : place]
    return None


def find_meta_math_expression(text: str) -> str | None:
    """Return the text after the last `The answer is: `, up to a full stop at a line's end, like meta-math/MetaMath."""
    _, mark, rest = text.rpartition(_META_MATH_MARK)
    return rest.split(".\n")[0].strip().removesuffix(".").strip() if mark else None


def find_gold(reference: str) -> str:
    r"""Return the answer in a reference's last `\boxed`, or else the reference itself."""
    boxed = find_boxed(reference)
    return reference.strip() if boxed is None else boxed


def is_equivalent(one: str, other: str) -> bool:
    """Compare two formulas by the string rules of hendrycks/math (modeling/math_equivalence.py).

    If one of them breaks a rule (a root at its end, two units), both are compared unchanged.
    """
    try:
        return clean_expression(one) == clean_expression(other)
    except (IndexError, ValueError):
        return one == other


def clean_expression(text: str) -> str:
    """Normalize a formula like hendrycks/math before comparing.

    Raises:
        IndexError: A root or a fraction is at the end of the text.
        ValueError: There are two units.
    """
    for old, new in _CHANGED:
        text = text.replace(old, new)
    if text.count(_UNIT) > 1:
        raise ValueError("two units")
    text = text.split(_UNIT)[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = f"0{text}"
    if text.count("=") == 1 and len(text.split("=")[0]) <= 2:  # "k = 3"
        text = text.split("=")[1]
    text = _brace_fractions(_brace_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    plain = _PLAIN_FRACTION.fullmatch(text)
    return f"\\frac{{{plain[1]}}}{{{plain[2]}}}" if plain else text


def normalize_minerva(answer: str) -> str:
    """Normalize an answer like Minerva's evaluation (Lewkowycz et al. 2022, arXiv:2206.14858, appendix D).

    This is the version of lm-evaluation-harness 0.4.13 (minerva_math, version 3.1), which keeps LaTeX commands intact
    and treats commas as thousands separators only between groups of three digits.
    """
    answer = answer.rpartition("=")[2]
    for word in filter(str.isalpha, _MINERVA_DELETED):
        answer = re.sub(rf"(?<!\\)\b{word}\b", "", answer)
    for old, new in _MINERVA_CHANGED:
        answer = answer.replace(old, new)
    for each in _MINERVA_DELETED:
        if each.isalpha():  # commands are at odd positions
            parts = _COMMAND.split(answer)
            answer = "".join(part if at % 2 else part.replace(each, "") for at, part in enumerate(parts))
        else:
            answer = answer.replace(each, "")
    for pattern, new in _MINERVA_SHORTENED:
        answer = pattern.sub(new, answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+", answer) else answer


def score_math_equivalence(prediction: str, reference: str) -> float:
    r"""Compare the answer in the last `\boxed`, or the whole text, by hendrycks/math's string rules."""
    boxed = find_boxed(prediction)
    return float(is_equivalent(prediction.strip() if boxed is None else boxed, find_gold(reference)))


def score_math_metamath(prediction: str, reference: str) -> float:
    """Compare the text after `The answer is: ` by the same rules, like meta-math/MetaMath (eval_math.py)."""
    answer = find_meta_math_expression(prediction)
    return float(answer is not None and is_equivalent(answer, find_gold(reference)))


def score_math_minerva(prediction: str, reference: str) -> float:
    """Compare final answers by Minerva's rules and sympy: `exact_match` of lm-eval's `minerva_math`.

    An answer that takes sympy more than 5 seconds counts as wrong.
    """
    found = _MINERVA_ANSWER.search(prediction + "I hope it is correct.")
    if not found:
        return 0.0
    answer, gold = normalize_minerva(found[1].strip()), normalize_minerva(find_gold(reference))
    return float((answer == gold and bool(gold)) or _is_equal_to_sympy(answer, gold))


def score_math_verify(prediction: str, reference: str) -> float:
    """Compare the formulas that package math-verify parses: `math_verify` of lm-eval's `minerva_math`."""
    library = require_package("math_verify", "math-verify[antlr4-11-0]", "the metric math_verify")
    boxed = reference if find_boxed(reference) is not None else f"\\boxed{{{reference.strip()}}}"
    return float(library.verify(gold=library.parse(boxed), target=library.parse(prediction)))


def _is_equal_to_sympy(answer: str, gold: str) -> bool:
    import sympy

    try:
        with time_limit(_SECONDS):
            return bool(sympy.simplify(_latex_parser()(answer) - _latex_parser()(gold)) == 0)
    except TimeoutError:
        return False
    except Exception as error:  # sympy raises many kinds of errors for texts that are not formulas
        if not (is_of_library(error) or isinstance(error, TypeError)):  # from subtracting two relations
            raise
        return False


@cache
def _latex_parser() -> Any:
    install, what = "antlr4-python3-runtime==4.11.*", "the metric math_minerva"
    require_package("antlr4", install, what)
    from sympy.parsing.latex import parse_latex

    try:
        parse_latex("1")
    except ImportError as error:  # of an incompatible version of antlr4
        raise ConfigError(
            [Problem(f"{what} needs {install}; run pip install '{install}'", code="unsupported")]
        ) from error
    return parse_latex


def _brace_roots(text: str) -> str:
    r"""Rewrite `\sqrt3` as `\sqrt{3}`."""
    head, *parts = text.split("\\sqrt")
    return head + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in parts)


def _brace_fractions(text: str) -> str:
    r"""Rewrite `\frac12` and `\frac1{2}` as `\frac{1}{2}`."""
    found, *parts = text.split("\\frac")
    for part in parts:
        if part[0] != "{":
            if len(part) < 2:
                return text
            below = "{" if part[1] == "{" else f"{{{part[1]}}}"
            part = f"{{{part[0]}}}{below}{part[2:]}"
        found += f"\\frac{part}"
    return found


TABLE: dict[str, Metric] = {
    "math_equivalence": build_text_metric(
        "math_equivalence", score_math_equivalence, "share of answers in a box that equal the right one as strings"
    ),
    "math_metamath": build_text_metric(
        "math_metamath", score_math_metamath, "share of formulas after 'The answer is: ' that equal the right one"
    ),
    "math_minerva": build_text_metric(
        "math_minerva", score_math_minerva, "share of final answers that equal the right one by Minerva's rules"
    ),
    "math_verify": build_text_metric(
        "math_verify", score_math_verify, "share of answers that package math-verify calls equal to the right one"
    ),
}
