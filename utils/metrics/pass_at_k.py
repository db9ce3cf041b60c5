"""Metrics of generated programs, which are run against the problem's tests, each in its own process.

Nothing runs before `allow_code_execution` is called, as the user's own file or a flag of the command requests.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from utils.core.cores import count_cores
from utils.core.errors import ConfigError, Problem
from utils.metrics.metric import Array, Metric, Reference, average_rows, build_text_metric

REFERENCE_KEYS = ("before", "tests")
SECONDS = 3.0
"""Time limit of a program in HumanEval's official evaluator."""
_LIMITS = {"seconds": SECONDS, "memory": 1 << 30, "file_size": 1 << 24, "processes": 8}
_SANDBOX = Path(__file__).with_name("sandbox.py")
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_UNGUARDED = {
    "users": "limits the number of processes for root",
    "mounts": "makes the file system read-only and hides sockets that are files",
    "ipc": "parts shared memory",
    "processes": "hides other processes from a program",
    "network": "cuts the network off",
    "files": "keeps a program from reading your files",
}

logger = logging.getLogger(__name__)


class _Consent:
    given = False


def allow_code_execution() -> None:
    """Allow programs to run from now on, as the user requested."""
    _Consent.given = True


def refuse_code_execution(metric: str) -> ConfigError:
    """Build the error that says how to allow it."""
    message = (
        f"{metric} runs the programs that the model writes; if this machine may run them (docs/security.md says what "
        "is held off), set it to true, or give evaluate_model.py --allow_code_execution"
    )
    return ConfigError([Problem(message, "evaluation.allow_code_execution", code="unsupported")])


def run_programs(programs: Sequence[str]) -> list[str]:
    """Run programs, as many at once as there are cores, and return `passed` or the failure of each.

    Raises:
        ConfigError: Running programs was not allowed.
    """
    if not _Consent.given:
        raise refuse_code_execution("pass_at_k")
    with ThreadPoolExecutor(max_workers=count_cores()) as pool:
        return list(pool.map(_run, programs))


def build_program(answer: str, reference: dict[str, Any]) -> str:
    """Assemble the program of an answer: the code before it, the answer, and the tests.

    In an answer to a chat (`fenced`), the first code block counts; it follows `before` even if it defines the whole
    function again.
    """
    if reference.get("fenced"):
        found = _FENCED.search(answer)
        answer = found[1] if found else answer
        name = re.escape(reference.get("entry_point") or "")
        if name and re.search(rf"^def {name}\b", answer, re.MULTILINE):
            answer = f"\n{answer}"  # a docstring alone is a body, so the code before is complete
    return f"{reference['before']}{answer}\n{reference['tests']}"


def estimate_pass_at_k(passed: Array, k: int) -> float:
    """Estimate the probability that one of k answers is correct, from the scores (n,) of n answers (Chen et al. 2021).

    Unbiased: 1 - C(n - c, k) / C(n, k), computed as a product like in the official evaluator (arXiv:2107.03374, figure
    3); nan if there are fewer than k answers.
    """
    import numpy as np

    n, c = len(passed), int(passed.sum())
    if n < k:
        return float("nan")
    return 1.0 if n - c < k else float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def _run(program: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(  # noqa: S603 - what it runs is why it is guarded
            [sys.executable, "-I", str(_SANDBOX), *(f"{name}={value}" for name, value in _LIMITS.items())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
            env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, start_new_session=True,
        )  # fmt: skip
        try:
            said, _ = process.communicate(program.encode("utf-8", errors="replace"), timeout=10 * SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return "timed out"
    missing, _, result = said.decode("utf-8", errors="replace").partition("\n")
    _warn_of_missing(missing)
    return result or "ended early"


@cache
def _warn_of_missing(missing: str) -> None:
    if missing:
        lacks = "; ".join(f"{name}, which {_UNGUARDED[name]}" for name in missing.split(","))
        logger.warning("programs run here with fewer guards: this system lacks the separation of %s", lacks)


def _score_programs(predictions: Sequence[str], references: Sequence[Reference]) -> Array:
    import numpy as np

    asked = [each if isinstance(each, dict) else {} for each in references]
    programs = [build_program(text, reference) for text, reference in zip(predictions, asked, strict=True)]
    return np.array([float(result == "passed") for result in run_programs(programs)], dtype=np.float64)


def _score_all(predictions: Sequence[str], references: Sequence[Reference]) -> float:
    return average_rows(_score_programs(predictions, references))


def _build(k: int) -> Metric:
    name = f"pass_at_{k}"
    described = (
        f"chance that one of {k} programs passes the tests" if k > 1 else "share of programs that pass the tests"
    )
    metric = build_text_metric(name, lambda *_: None, described, reference_keys=REFERENCE_KEYS)
    return replace(metric, score=_score_all, score_rows=_score_programs, over_answers=partial(estimate_pass_at_k, k=k),
                   num_answers=k, runs_code=True)  # fmt: skip


TABLE: dict[str, Metric] = {"pass_at_1": _build(1), "pass_at_10": _build(10), "pass_at_100": _build(100)}
