"""The keys by which scores of generated answers once chose the best checkpoint and ended training.

The best was always that of `combined`, and another metric could end the training; the loss could choose beside them.
There is one metric now, the one that chose the final model; what another decided is said.
"""

from __future__ import annotations

from typing import Any

from utils.config.document import KeyPath
from utils.run_config.older_table import OLDER, Moved
from utils.run_config.rewriter import Rewriter

_METRIC: KeyPath = ("evaluation", "early_stopping_metric")
_CHOOSES: KeyPath = ("training", "metric_for_best_model")


def rewrite_best(rewriter: Rewriter) -> None:
    """Move them to `training:`."""
    document = rewriter.document
    keys = ("load_best_at_end", "early_stopping_patience")
    loads, stops = (document.get(("evaluation", key)) not in (None, False) for key in keys)
    if document.has(_METRIC) and not stops:
        if document.get(_METRIC) not in (None, "combined"):
            rewriter.leave_out(_METRIC, "has no effect; early_stopping_patience is not set")
        else:
            document.remove(_METRIC)
    if loads or stops:
        _choose_metric(rewriter, loads)
    for key, rule in OLDER.items():
        if isinstance(rule, Moved) and key.startswith("evaluation."):
            old, new = tuple(key.split(".")), tuple(rule.to.split("."))
            if document.has(old) and document.get(old) not in rule.nothing and document.has(new):
                _lay_over(rewriter, old, new, rule.nothing)
            rewriter.apply(old, rule)


def _choose_metric(rewriter: Rewriter, loads: bool) -> None:
    """Write down the one metric, where `training:` names none."""
    document = rewriter.document
    wanted = document.get(_METRIC) or "combined"
    by_loss = document.get(("training", "load_best_model_at_end")) is True
    own = document.get(_CHOOSES) or ("loss" if by_loss else None)
    kept = own or ("combined" if loads else wanted)
    place = rewriter.place(_METRIC if document.has(_METRIC) else ("evaluation",))
    if wanted != kept:
        said = f"the best checkpoint and the end of training go by one metric now, {kept}, and not by {wanted} too"
        rewriter.notice(_METRIC, place, said)
    if document.has(_METRIC):
        document.remove(_METRIC)
    if own is None:
        document.set(_CHOOSES, kept, place)


def _lay_over(rewriter: Rewriter, old: KeyPath, new: KeyPath, nothing: tuple[Any, ...]) -> None:
    """Let a key that asks for something count before one that asks for nothing, unless that one overrides it."""
    document = rewriter.document
    if document.get(new) in nothing and not document.overrides(new, old):
        document.remove(new)
    elif document.get(new) not in nothing and document.get(new) != document.get(old):
        rewriter.leave_out(old, f"{'.'.join(new)} counts, {document.get(new)}")
