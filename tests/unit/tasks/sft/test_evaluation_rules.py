"""Evaluation during training: its datasets are saved and must exist, and the metric that selects the best is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.evaluation.test_history import QMSUM, TRUTH
from utils.core.errors import ConfigError
from utils.run_config import load_run_config
from utils.tasks.sft.evaluation_rules import BestMetric, find_best_metric, find_score, require_best_metric

CONFIG = Path(__file__).parents[4] / "configs" / "quickstart_sft.yaml"
STEPS = "evaluation.steps=2"
PATIENCE = "training.early_stopping_patience=2"
METRIC = "training.metric_for_best_model"
BEST = "training.load_best_model_at_end=true"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([BEST, f"{METRIC}=combined"], "load_best_model_at_end: needs evaluations during training"),
        (["evaluation.load_best_at_end=true"], "load_best_model_at_end: needs evaluations during training"),
        ([BEST], "load_best_model_at_end: needs evaluations; set training.eval_strategy"),
        ([STEPS, BEST, "training.save_strategy=no"], "needs checkpoints"),
        ([STEPS, "training.save_strategy=best"], "save_strategy: best compares the loss only"),
        ([PATIENCE, f"{METRIC}=combined"], "early_stopping_patience: needs evaluations during training"),
        (["evaluation.early_stopping_patience=2"], "early_stopping_patience: needs evaluations during training"),
        ([STEPS, PATIENCE, f"{METRIC}=test_em_strct"], "did you mean test_em_strict"),
        ([STEPS, f"{METRIC}=lss"], "did you mean loss?; evaluations of the loss give loss, perplexity, token_accuracy"),
        (
            [STEPS, f"{METRIC}=em_strict"],
            "no result called em_strict; did you mean test_em_strict?; evaluations of the loss give loss, perplexity, "
            "token_accuracy, those of generated answers combined, test_em_strict",
        ),
        (
            [STEPS, f"{METRIC}=combined", "training.lr_scheduler_type=reduce_lr_on_plateau",
             "training.eval_strategy=epoch"],
            "reduce_lr_on_plateau goes by evaluations of the loss",
        ),
        (["evaluation.sets=[qmsun]"], "evaluation.sets: no dataset, file or folder called qmsun; did you mean qmsum?"),
        (
            ["evaluation.sets=[{name: longbench, subsets: [trek]}]"],
            "evaluation.sets: longbench: subsets: no subset of LongBench is called trek; did you mean trec?",
        ),
        (["evaluation.sets=[glue]"], "evaluation.sets: glue is for task_type: SEQ_CLS"),
        (["evaluation.sets=[{name: gsm8k, label: combined}]"], "give the set another label"),
    ],
)  # fmt: skip
def test_unworkable_settings_are_refused_before_loading(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(CONFIG, words)
    assert expected in str(caught.value)


@pytest.mark.parametrize("metric", ["unseen_invalid_rate", "unseen.invalid_rate", "eval_unseen_em_strict", "combined"])
def test_valid_settings_pass_and_those_without_effect_are_named(metric: str) -> None:
    assert load_run_config(CONFIG, [STEPS, PATIENCE, BEST, f"{METRIC}={metric}"]).warnings == ()
    idle = load_run_config(CONFIG, ["training.early_stopping_threshold=0.1"]).warnings
    assert len(idle) == 1
    assert "early_stopping_threshold: has no effect; early_stopping_patience is not set" in idle[0]


def test_the_selecting_metric_follows_from_the_evaluations() -> None:
    assert load_run_config(CONFIG, [STEPS, BEST]).arguments["metric_for_best_model"] == "combined"
    losses = ["training.eval_strategy=epoch", BEST]
    assert load_run_config(CONFIG, [STEPS, *losses]).arguments["metric_for_best_model"] == "loss"
    assert "metric_for_best_model" not in load_run_config(CONFIG, [STEPS]).arguments


def test_a_mistake_in_the_sets_is_located(tmp_path: Path) -> None:
    head = CONFIG.read_text("utf-8").partition("\nevaluation:")[0]
    file = tmp_path / "wrong.yaml"
    file.write_text(f"{head}\nevaluation:\n  sets: [qmsun]\n")
    line = file.read_text().splitlines().index("  sets: [qmsun]") + 1
    with pytest.raises(ConfigError, match=rf"wrong\.yaml:{line}  evaluation\.sets: no dataset"):
        load_run_config(file)


def test_unused_sets_and_missing_files_do_not_block_a_stored_run() -> None:
    load_run_config(CONFIG, ["evaluation.sets=[qmsun]", "evaluation.at_end=false"])
    gone = "{name: longbench, subsets: [trec], prompts_file: /gone/prompts.json}"
    load_run_config(CONFIG, [f"evaluation.sets=[{gone}, /gone/rows.jsonl, a_folder_seen_from_elsewhere]"], files=False)
    with pytest.raises(ConfigError, match=r"evaluation.sets: /gone/prompts.json: no such file of prompts"):
        load_run_config(CONFIG, [f"evaluation.sets=[{gone}]"])


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
def test_a_score_can_be_named_in_several_ways(chosen: str, found: str | None) -> None:
    assert find_score(chosen, KNOWN) == found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["evaluation.steps=2"], BestMetric("combined_score", True, True)),
        (
            ["evaluation.steps=2", "training.eval_strategy=epoch", "training.lr_scheduler_type=reduce_lr_on_plateau"],
            None,
        ),
        (["training.metric_for_best_model=qmsum.rouge_l"], BestMetric("qmsum_rouge_l", True, True)),
        (["training.metric_for_best_model=eval_loss"], BestMetric("loss", False, False)),
        (["training.metric_for_best_model=token_accuracy"], BestMetric("token_accuracy", True, False)),
        (["training.metric_for_best_model=loss", "training.greater_is_better=true"], BestMetric("loss", True, False)),
    ],
)  # fmt: skip
def test_greater_is_better_follows_from_the_metric(words: list[str], expected: BestMetric | None) -> None:
    config = load_run_config(CONFIG, [SETS, *words])
    assert find_best_metric(config, [QMSUM, TRUTH]) == expected


def test_an_unknown_score_cannot_select_the_best(caplog: pytest.LogCaptureFixture) -> None:
    config = load_run_config(CONFIG, [SETS, "training.metric_for_best_model=truthfulqa_accuracy"])
    require_best_metric(config, [QMSUM, TRUTH])
    with pytest.raises(ConfigError, match=r"no result called truthfulqa_accuracy; .* answers combined, qmsum_rouge_l"):
        require_best_metric(config, [QMSUM])
    require_best_metric(load_run_config(CONFIG, [SETS, "training.metric_for_best_model=combined"]), [])
    assert "combined has no effect: no set is answered by generating" in caplog.text
