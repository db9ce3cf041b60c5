"""Evaluates whatever kind of model it is, and shows the scores."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from utils.evaluate_model.table import render_scores

if TYPE_CHECKING:
    from utils.evaluate_model.folders import Entry
    from utils.evaluate_model.subjects import Subject

_log = logging.getLogger(__name__)


def evaluate(subject: Subject) -> list[Entry]:
    """Evaluate a model on all sets that it is asked."""
    for notice in dict.fromkeys(notice for job in subject.jobs for notice in job.config.notices):
        _log.info("note: %s", notice)
    if subject.jobs[0].config.task_type == "CAUSAL_LM":
        from utils.evaluate_model.causal import evaluate_language_model

        return evaluate_language_model(subject)
    from utils.evaluate_model.classifier import evaluate_classifier

    return evaluate_classifier(subject)


def show_scores(subject: Subject, entries: list[Entry]) -> dict[str, Any]:
    """Print the table on standard output and give everything for `--json`."""
    from rich.console import Console

    language = subject.jobs[0].config.results.language
    Console().print(render_scores(subject.title, entries, language))
    return {"weights": subject.describe_weights(), "sets": {entry.label: entry.to_dict() for entry in entries}}
