"""Older keys by which scores of generated answers chose the best checkpoint and stopped training.

The best used to be that of `combined`, another metric could stop the training, and the loss could choose as well. Now a
single metric does both: the one that chose the final model. A notice reports what another one decided.
"""

from __future__ import annotations

from typing import Any

from utils.config.document import KeyPath
from utils.run_config.older_table import OLDER, Moved
from utils.run_config.rewriter import Rewriter

_METRIC: KeyPath = ("evaluation", "early_stopping_metric")
_CHOOSES: KeyPath = ("training", "metric_for_best_model")


def rewrite_best(rewriter: Rewriter) -> None:
    """Move the keys to `training:`."""
    document = rewriter.document
    keys = ("load_best_at_end", "early_stopping_patience")
    loads, stops = (document.get(("evaluation", key)) not in (None, False) for key in keys)
    if document.has(_METRIC) and not stops:
        if document.get(_METRIC) not in (None, "combined"):
            rewriter.drop(_METRIC, "has no effect; early_stopping_patience is not set")
        else:
            document.remove(_METRIC)
    if loads or stops:
        _choose_metric(rewriter, loads)
    for key, rule in OLDER.items():
        if isinstance(rule, Moved) and key.startswith("evaluation."):
            old, new = tuple(key.split(".")), tuple(rule.to.split("."))
            if document.has(old) and document.get(old) not in rule.nothing and document.has(new):
                _resolve_both(rewriter, old, new, rule.nothing)
            rewriter.apply(old, rule)


def _choose_metric(rewriter: Rewriter, loads: bool) -> None:
    """Set the single metric, if `training:` names none."""
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


def _resolve_both(rewriter: Rewriter, old: KeyPath, new: KeyPath, nothing: tuple[Any, ...]) -> None:
    """Make a key that requests something take precedence over one that requests nothing, unless that overrides it."""
    document = rewriter.document
    if document.get(new) in nothing and not document.overrides(new, old):
        document.remove(new)
    elif document.get(new) not in nothing and document.get(new) != document.get(old):
        rewriter.drop(old, f"{'.'.join(new)} counts, {document.get(new)}")
