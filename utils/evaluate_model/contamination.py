"""Says which rows of the sets a run was trained on: a score of them says what was remembered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.core.errors import UserError
from utils.data.dataset import load_dataset_plugin
from utils.data.instruction import read_training_rows
from utils.evaluation.contamination import find_leakage

if TYPE_CHECKING:
    from utils.evaluate_model.model_refs import ModelRef
    from utils.evaluation.sets import EvaluationSet

logger = logging.getLogger(__name__)

Leakage = dict[str, list[dict[str, Any]] | None]
"""By label: what a set has in common with the training rows, each with set, rows and documents; None: not checked."""


def find_run_leakage(subject: ModelRef, sets: Sequence[EvaluationSet]) -> Leakage:
    """Compare the rows that a run was trained on with the sets that have a prompt of their own; warn of what is found.

    Args:
        subject: A plain model has no rows to compare with.
        sets: Loaded.

    Returns:
        Nothing for sets that are asked by the run's prompt, for plain models, and for runs that only evaluated.
    """
    asked = [each for each in sets if each.own_prompt]
    config = subject.trained_config
    if not asked or config is None or not config.arguments.get("do_train", True):
        return {}
    section: Any = config.dataset
    try:
        spec = load_dataset_plugin(section.name).describe_instructions(section)
        rows, fingerprint = read_training_rows(spec, section, config.seed)
        recorded = subject.record.data.fingerprint if subject.record else None
        if recorded not in (None, fingerprint):
            return _tell_unchecked(asked, f"{spec.path}: the rows are no longer those that the run was trained on")
        found = {leak.label: leak.describe() for leak in find_leakage(rows, asked)}
    except UserError as error:
        return _tell_unchecked(asked, str(error))
    for each in asked:
        if leak := found.get(each.label):
            logger.warning(
                "%s: the run was trained on %d of its %d rows, and on the documents of %d others: the score says what "
                "was remembered", each.label, leak["rows"], len(each.references), leak["documents"],
            )  # fmt: skip
    return {each.label: [found[each.label]] if each.label in found else [] for each in asked}


def _tell_unchecked(sets: Sequence[EvaluationSet], reason: str) -> Leakage:
    labels = [each.label for each in sets]
    logger.warning("%s: not checked whether the run was trained on these rows: %s", ", ".join(labels), reason)
    return dict.fromkeys(labels)
