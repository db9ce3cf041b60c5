"""Metrics of the evaluate library and of the user's own scripts: texts, labels and values, and errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scoring import compute_metric
from utils.config.sections.evaluation import SetSection, explain_metrics
from utils.core.errors import ConfigError, UserError
from utils.metrics.metric import load_metric
from utils.metrics.scoring import compute_metrics, majority_baseline
from utils.results.labels import is_score

SCRIPT = """
import datasets
import evaluate

class Mine(evaluate.Metric):
    def _info(self):
        features = datasets.Features({{name: datasets.Value("{kind}") for name in ("predictions", "references")}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        same = sum(each == right for each, right in zip(predictions, references))
        return {answer}
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return metric names by the kind of input and output."""
    folder, found = tmp_path_factory.mktemp("scripts"), {}
    answers = {"one": '{"one": same}', "two": '{"same": same, "rows": len(references), "of": "all"}', "bad": "1 / 0"}
    for name, answer in answers.items():
        for kind in ("string", "float") if name == "one" else ("string",):
            (home := folder / kind / name).mkdir(parents=True)
            (home / f"{name}.py").write_text(SCRIPT.format(kind=kind, answer=answer))
            found[f"{name}_{kind}"] = f"evaluate:{home}"
    (folder / "torn").mkdir()
    (folder / "torn" / "torn.py").write_text("import no_such_package")
    return {**found, "torn": f"evaluate:{folder / 'torn'}"}


def test_texts_labels_and_values(scripts: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    texts, labels = scripts["one_string"], scripts["one_float"]
    with caplog.at_level(logging.WARNING):
        assert compute_metrics([texts], ["a", "b", "c"], ["a", "b", "d"], 1) == {texts: 2.0}
    assert "is a script of a local folder, which runs as code" in caplog.text
    assert compute_metrics([labels], np.array([0, 1, 2]), np.array([0, 2, 2]), 3) == {labels: 2.0}
    assert compute_metrics([labels], np.array([[0.5], [1.0]]), np.array([0.5, 2.0]), 1) == {labels: 1.0}
    assert majority_baseline([labels, "accuracy"], [1, 1, 0], [1, 0], 2) == {labels: 1.0, "accuracy": 0.5}
    assert not is_score(texts), "a score of unknown range is shown unscaled"


def test_one_of_several_values(scripts: dict[str, str]) -> None:
    name = scripts["two_string"]
    assert compute_metric(f"{name}:rows", ["a", "b"], ["a", "c"], 1) == 2
    assert compute_metric(f"{name}:same", ["a", "b"], ["a", "c"], 1) == 1
    with pytest.raises(ConfigError, match=r"gives same, rows; name one of them: evaluate:.*two:KEY"):
        compute_metric(name, ["a"], ["a"], 1)
    with pytest.raises(ConfigError, match="gives same, rows; name one of them"):
        compute_metric(f"{name}:of", ["a"], ["a"], 1)


def test_lower_is_better_for_errors() -> None:
    assert [load_metric(f"evaluate:{each}").greater_is_better for each in ("wer", "sacrebleu")] == [False, True]


def test_errors_of_a_metric_are_reported(
    scripts: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"bad: cannot score these rows: .*division by zero"):
        compute_metric(scripts["bad_string"], ["a"], ["a"], 1)
    with pytest.raises(ConfigError, match=r"torn: its script needs more: .*no_such_package"):
        load_metric(scripts["torn"]).prepare()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    with pytest.raises(ConfigError, match="evaluate:nobody/no_such_metric: cannot be loaded"):
        load_metric("evaluate:nobody/no_such_metric").prepare()
    assert "evaluate:nobody/no_such_metric is a script of the hub, which runs as code" in caplog.text


def test_names_are_checked_before_anything_is_loaded(scripts: dict[str, str]) -> None:
    assert explain_metrics([*scripts.values(), "evaluate:sacrebleu", "evaluate:rouge:rougeL", "rouge_l"]) is None
    assert "name the metric, evaluate:sacrebleu" in str(explain_metrics(["evaluate:"]))
    with pytest.raises(ValueError, match=r"there is no script nowhere/nowhere\.py; a metric's script"):
        SetSection(name="gsm8k", metrics=["evaluate:./nowhere"])


def test_scoring_of_stored_answers(scripts: dict[str, str], tmp_path: Path) -> None:
    from tests.commands.in_process import command

    file = tmp_path / "mine.jsonl"
    file.write_text('{"prediction": "a", "reference": "a"}\n{"prediction": "b", "reference": "c"}\n')
    words = (
        "--metric",
        f"{scripts['two_string']}:same",
        "--metric",
        "exact_match",
        "--output_dir",
        tmp_path / "scored",
    )
    [found] = command("evaluate_model", "--answers", file, *words)["sets"].values()
    assert found["metrics"] == {f"{scripts['two_string']}:same": 1.0, "exact_match": 0.5}
    assert list(found["interval"]) == ["exact_match"]


def test_a_classifiers_own_metric_needs_consent_to_be_run_again(
    scripts: dict[str, str], make_config: Callable[..., Any]
) -> None:
    from tests.commands.in_process import command

    name = scripts["one_float"]
    config = make_config(dataset__metrics=[name, "accuracy", "f1"], training__max_steps=1)
    run = command("train", "--config", config.source)["output_dir"]
    metrics = json.loads(Path(run, "results.json").read_text("utf-8"))["metrics"]
    assert metrics[name] == pytest.approx(17 * metrics["accuracy"]), "the correct rows"
    assert metrics["combined_score"] == pytest.approx((metrics["accuracy"] + metrics["f1"]) / 2), "over scores only"
    with pytest.raises(UserError, match=r"its own run.yaml scores by evaluate:.*--allow_extensions"):
        command("evaluate_model", "--run", run)
    [found] = command("evaluate_model", "--run", run, "--allow_extensions")["sets"].values()
    assert found["metrics"][name] == metrics[name]
