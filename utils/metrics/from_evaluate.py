"""Metrics of the evaluate library, by name: `evaluate:sacrebleu`, `evaluate:rouge:rougeL`, `evaluate:./my_metric`.

Each is a script, from the hub or a local folder, which runs as code. It scores all rows at once, without row scores or
an interval.
"""

from __future__ import annotations

import logging
import math
from functools import cache, partial
from typing import Any

from utils.config.sections.evaluation import EVALUATE_PREFIX
from utils.config.sections.model import is_local
from utils.core.errors import ConfigError, Problem
from utils.core.library_errors import describe, is_of_library

FALLING = frozenset(
    {"wer", "cer", "ter", "character", "mse", "mae", "mape", "smape", "mase", "brier_score", "perplexity"}
)
"""Metrics of the library for which lower is better, which it does not declare itself."""

logger = logging.getLogger(__name__)


def split_name(name: str) -> tuple[str, str | None]:
    """Split `evaluate:rouge:rougeL` into the script and the key of its result, or None if no key is given."""
    path, _, key = name.removeprefix(EVALUATE_PREFIX).partition(":")
    return path, key or None


def compute_by_evaluate(name: str, predictions: Any, references: Any) -> float:
    """Compute a metric over all rows (n,).

    Raises:
        ConfigError: The script cannot be loaded, rejects the rows, or returns several values without a chosen key.
    """
    path, key = split_name(name)
    script = load_script(path)
    try:
        found = script.compute(predictions=_as_list(predictions), references=_as_list(references))
    except Exception as error:  # a script may raise anything
        if not is_of_library(error):
            raise
        raise _refuse(name, f"cannot score these rows: {describe(error)}") from error
    return _choose(name, path.rstrip("/").rpartition("/")[2], key, found or {})


@cache
def load_script(path: str) -> Any:
    """Load a metric's script, which runs it, and log that once.

    Raises:
        ConfigError: It cannot be loaded.
    """
    import evaluate

    home = "a local folder" if is_local(path) else "the hub"
    logger.warning("%s%s is a script of %s, which runs as code", EVALUATE_PREFIX, path, home)
    try:
        return evaluate.load(path, keep_in_memory=True)
    except ImportError as error:
        raise _refuse(f"{EVALUATE_PREFIX}{path}", f"its script needs more: {describe(error)}") from error
    except Exception as error:  # a script may raise anything on import
        if not is_of_library(error):
            raise
        raise _refuse(f"{EVALUATE_PREFIX}{path}", f"cannot be loaded: {describe(error)}") from error


def _choose(name: str, own: str, key: str | None, found: dict[str, Any]) -> float:
    values = {each: value for each, value in found.items() if _is_number(value)}
    chosen = key or next((each for each in (own, "score") if each in values), None)
    chosen = next(iter(values)) if chosen is None and len(values) == 1 else chosen
    if chosen not in values:
        shown = ", ".join(values) or "no number"
        raise _refuse(name, f"gives {shown}; name one of them: {EVALUATE_PREFIX}{split_name(name)[0]}:KEY")
    return float(values[chosen])


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str | bool) and not math.isinf(float(value))
    except (TypeError, ValueError):
        return False


def _as_list(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _refuse(name: str, why: str) -> ConfigError:
    return ConfigError([Problem(f"{name}: {why}", code="unsupported")])


def build_fields(name: str) -> dict[str, Any]:
    """Return the fields of a Metric that runs one."""
    path, _ = split_name(name)
    return {
        "score": partial(compute_by_evaluate, name),
        "greater_is_better": path.rstrip("/").rpartition("/")[2] not in FALLING,
        "prepare": partial(load_script, path),
    }
