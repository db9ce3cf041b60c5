"""A result chooses the best checkpoint by its name in the log; a name that none has is an error before training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.evaluation.test_history import QMSUM, TRUTH
from utils.core.errors import ConfigError
from utils.run_config import load_run_config
from utils.tasks.sft.best_metric import BestMetric, find_best_metric, find_score, require_best_metric

CONFIG = Path(__file__).parents[4] / "configs" / "quickstart_sft.yaml"
SETS = "evaluation.sets=[qmsum, truthfulqa]"
KNOWN = {"combined_score": True, "gsm8k_em_strict": True, "a.b_invalid_rate": False, "truthfulqa_accuracy": True}


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ("combined", "combined_score"), ("combined_score", "combined_score"), ("gsm8k_em_strict", "gsm8k_em_strict"),
        ("eval_gsm8k_em_strict", "gsm8k_em_strict"), ("gsm8k.em_strict", "gsm8k_em_strict"),
        ("a.b.invalid_rate", "a.b_invalid_rate"), ("a.b_invalid_rate", "a.b_invalid_rate"),
        ("truthfulqa.truthfulqa_accuracy", "truthfulqa_accuracy"), ("em_strict", None), ("gsm8k.em_strct", None),
    ],
)  # fmt: skip
def test_a_score_is_found_by_each_of_its_names(chosen: str, found: str | None) -> None:
    assert find_score(chosen, KNOWN) == found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["evaluation.steps=2"], BestMetric("combined_score", True, True)),
        (["training.metric_for_best_model=qmsum.rouge_l"], BestMetric("qmsum_rouge_l", True, True)),
        (["training.metric_for_best_model=eval_loss"], BestMetric("loss", False, False)),
        (["training.metric_for_best_model=token_accuracy"], BestMetric("token_accuracy", True, False)),
        (["training.metric_for_best_model=loss", "training.greater_is_better=true"], BestMetric("loss", True, False)),
    ],
)  # fmt: skip
def test_the_metric_says_which_way_is_better(words: list[str], expected: BestMetric | None) -> None:
    config = load_run_config(CONFIG, [SETS, *words])
    assert find_best_metric(config, [QMSUM, TRUTH]) == expected


def test_an_unknown_score_cannot_decide(caplog: pytest.LogCaptureFixture) -> None:
    config = load_run_config(CONFIG, [SETS, "training.metric_for_best_model=truthfulqa_accuracy"])
    require_best_metric(config, [QMSUM, TRUTH])
    with pytest.raises(ConfigError, match=r"no result called truthfulqa_accuracy; .* answers combined, qmsum_rouge_l"):
        require_best_metric(config, [QMSUM])
    require_best_metric(load_run_config(CONFIG, [SETS, "training.metric_for_best_model=combined"]), [])
    assert "combined has no effect: there is no set whose prompts are answered" in caplog.text
