"""Older keys for the best checkpoint and early stopping of generated scores keep their meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config.document import Document
from utils.run_config import load_run_config
from utils.run_config.older_best import rewrite_best
from utils.run_config.rewriter import Rewriter

CONFIG = Path(__file__).parents[3] / "configs" / "quickstart_sft.yaml"
OLD_DEFAULTS = {
    "load_best_at_end": False, "early_stopping_patience": None, "early_stopping_metric": "combined",
    "early_stopping_threshold": 0,
}  # fmt: skip
OLD_TRAINING = {"load_best_model_at_end": False, "early_stopping_patience": None, "early_stopping_threshold": 0}
BY_LOSS = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}


def _best(*scores: tuple[str, object]) -> dict[str, object]:
    return {"load_best_model_at_end": True, "metric_for_best_model": "combined", **dict(scores)}


@pytest.mark.parametrize(
    ("evaluation", "training", "expected", "said"),
    [
        ({}, {}, {}, ""),
        ({}, BY_LOSS, BY_LOSS, ""),
        ({"load_best_at_end": True}, {}, _best(), "now called training.load_best_model_at_end"),
        ({"early_stopping_patience": 3}, {},
         {"early_stopping_patience": 3, "metric_for_best_model": "combined"}, "training.early_stopping_patience"),
        ({"early_stopping_patience": 3, "early_stopping_metric": "qmsum.rouge_l", "early_stopping_threshold": 0.1}, {},
         {"early_stopping_patience": 3, "metric_for_best_model": "qmsum.rouge_l", "early_stopping_threshold": 0.1}, ""),
        ({"load_best_at_end": True, "early_stopping_patience": 3, "early_stopping_metric": "qmsum.rouge_l"}, {},
         _best(("early_stopping_patience", 3)), "by one metric now, combined, and not by qmsum.rouge_l too"),
        ({"early_stopping_patience": 3}, BY_LOSS, {**BY_LOSS, "early_stopping_patience": 3},
         "by one metric now, loss, and not by combined too"),
        ({"early_stopping_patience": 3}, {**BY_LOSS, "early_stopping_patience": 2},
         {**BY_LOSS, "early_stopping_patience": 2}, "training.early_stopping_patience counts, 2"),
        ({"early_stopping_metric": "qmsum.rouge_l"}, {}, {}, "has no effect; early_stopping_patience is not set"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("resolved", [False, True])
def test_older_keys_are_moved(
    evaluation: object, training: object, expected: object, said: str, resolved: bool
) -> None:
    """Also in a run.yaml, which states every key."""
    assert isinstance(evaluation, dict)
    assert isinstance(training, dict)
    assert isinstance(expected, dict)
    if resolved:
        evaluation, training = {**OLD_DEFAULTS, **evaluation}, {**OLD_TRAINING, **training}
        expected = {**OLD_TRAINING, **expected}
    document = Document({"evaluation": dict(evaluation), "training": dict(training)})
    older = Rewriter(document)
    rewrite_best(older)
    assert not older.problems
    assert document.data == {"evaluation": {}, "training": expected}
    assert said in "\n".join(older.notices)


def test_the_command_line_overrides_a_file(tmp_path: Path) -> None:
    words = ["evaluation.steps=2", "evaluation.load_best_at_end=true", "evaluation.early_stopping_patience=3"]
    config = load_run_config(CONFIG, words)
    assert config.training.early_stopping_patience == 3
    assert (config.arguments["load_best_model_at_end"], config.arguments["metric_for_best_model"]) == (True, "combined")
    file = tmp_path / "run.yaml"
    text = CONFIG.read_text("utf-8").replace("\nevaluation:", "\nevaluation:\n  load_best_at_end: true\n  steps: 2", 1)
    file.write_text(text)
    assert load_run_config(file).arguments["load_best_model_at_end"] is True
    over = load_run_config(file, ["training.load_best_model_at_end=false"])
    assert over.arguments["load_best_model_at_end"] is False
