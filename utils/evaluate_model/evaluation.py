"""Evaluates whatever kind of model it is, and shows the scores."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from utils.evaluate_model.table import render_averages, render_scores
from utils.metrics.longbench import average_by_category
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from utils.evaluate_model.folders import Entry
    from utils.evaluate_model.model_refs import ModelRef

logger = logging.getLogger(__name__)


def evaluate(subject: ModelRef) -> list[Entry]:
    """Evaluate a model on all sets that it is asked."""
    for notice in dict.fromkeys(notice for job in subject.jobs for notice in job.config.notices):
        logger.info("note: %s", notice)
    if load_task(subject.jobs[0].config.task).GENERATES:
        from utils.evaluate_model.causal import evaluate_language_model

        return evaluate_language_model(subject)
    from utils.evaluate_model.classifier import evaluate_classifier

    return evaluate_classifier(subject)


def show_scores(subject: ModelRef, entries: list[Entry]) -> dict[str, Any]:
    """Print the tables on standard output and give everything for `--json`."""
    from utils.core.terminal import build_console

    language, console = subject.jobs[0].config.results.language, build_console()
    console.print(render_scores(subject.title, entries, language))
    answer = {"weights": subject.describe_weights(), "sets": {entry.label: entry.to_dict() for entry in entries}}
    averages = average_longbench(entries)
    if averages:
        console.print(render_averages(averages))
        answer["longbench"] = averages
    return answer


def average_longbench(entries: Sequence[Entry]) -> dict[str, float]:
    """Average the scores of LongBench's subsets by category, and over the categories; 0 to 1.

    Returns:
        Empty where fewer than two subsets were scored.
    """
    found: dict[str, float] = {}
    for entry in entries:
        subsets = entry.result.get("facts", {}).get("subsets", [])
        if len(subsets) == 1 and (value := entry.result["metrics"].get("longbench_score")) is not None:
            found[str(subsets[0])] = value
    return average_by_category(found) if len(found) > 1 else {}
