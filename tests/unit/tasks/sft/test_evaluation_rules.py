"""What `evaluation:` asks for during training has to be saved, and has to exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.core.errors import ConfigError
from utils.run_config import load_run_config

CONFIG = Path(__file__).parents[4] / "configs" / "quickstart_sft.yaml"
STEPS = "evaluation.steps=2"
PATIENCE = "evaluation.early_stopping_patience=2"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluation.load_best_at_end=true"], "load_best_at_end: needs evaluations during training"),
        ([STEPS, "evaluation.load_best_at_end=true", "training.save_strategy=no"], "needs checkpoints"),
        ([STEPS, "training.save_strategy=best"], "save_strategy: best saves by the loss alone"),
        ([PATIENCE], "early_stopping_patience: needs evaluations during training"),
        ([STEPS, PATIENCE, "evaluation.early_stopping_metric=test.em_strct"], "did you mean test.em_strict"),
        ([STEPS, PATIENCE, "evaluation.early_stopping_metric=em_strict"], "no score called em_strict"),
        (["evaluation.sets=[qmsun]"], "evaluation.sets: no dataset, file or folder called qmsun; did you mean qmsum?"),
        (
            ["evaluation.sets=[{name: longbench, subsets: [trek]}]"],
            "evaluation.sets: longbench: subsets: no subset of LongBench is called trek; did you mean trec?",
        ),
        (["evaluation.sets=[glue]"], "evaluation.sets: glue is for task_type: SEQ_CLS"),
        (["evaluation.sets=[{name: gsm8k, label: combined}]"], "give the set another label"),
        (
            [STEPS, "evaluation.load_best_at_end=true", "training.eval_strategy=epoch",
             "training.load_best_model_at_end=true"],
            "not together with training.load_best_model_at_end",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_anything_is_loaded(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(CONFIG, words)
    assert expected in str(caught.value)


def test_what_works_passes_and_idle_settings_are_named() -> None:
    words = [
        STEPS,
        PATIENCE,
        "evaluation.early_stopping_metric=unseen.invalid_rate",
        "evaluation.load_best_at_end=true",
    ]
    assert load_run_config(CONFIG, words).warnings == ()
    idle = load_run_config(CONFIG, ["evaluation.early_stopping_threshold=0.1"]).warnings
    assert len(idle) == 1
    assert "early_stopping_threshold: has no effect; early_stopping_patience is not set" in idle[0]


def test_a_mistake_in_the_sets_has_its_line(tmp_path: Path) -> None:
    head = CONFIG.read_text("utf-8").partition("\nevaluation:")[0]
    file = tmp_path / "wrong.yaml"
    file.write_text(f"{head}\nevaluation:\n  sets: [qmsun]\n")
    line = file.read_text().splitlines().index("  sets: [qmsun]") + 1
    with pytest.raises(ConfigError, match=rf"wrong\.yaml:{line}  evaluation\.sets: no dataset"):
        load_run_config(file)


def test_sets_that_are_not_asked_and_files_that_are_gone_do_not_stop_a_stored_run() -> None:
    load_run_config(CONFIG, ["evaluation.sets=[qmsun]", "evaluation.at_end=false"])
    gone = "{name: longbench, subsets: [trec], prompts_file: /gone/prompts.json}"
    load_run_config(CONFIG, [f"evaluation.sets=[{gone}, /gone/rows.jsonl, a_folder_seen_from_elsewhere]"], files=False)
    with pytest.raises(ConfigError, match=r"evaluation.sets: /gone/prompts.json: no such file of prompts"):
        load_run_config(CONFIG, [f"evaluation.sets=[{gone}]"])
