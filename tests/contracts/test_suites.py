"""Every shipped suite, found by walking the folder: valid, as documented, and with the stated settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.search import plan_suite
from utils.benchmark.suite_reader import read_suite
from utils.core import registry

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "benchmarks").glob("*.yaml"))
SHIPPED = {
    "glue_qst_llama3", "glue_bert_base", "glue_bert_large", "glue_methods", "glue_small_methods", "glue_small_search",
    "lora_inits", "metamath_gsm8k",
    "quickstart", "quickstart_methods", "quickstart_search",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def plan_of(name: str) -> Any:
    return plan_suite(read_suite(f"configs/benchmarks/{name}.yaml"), files=False)


def test_all_suites_are_present() -> None:
    assert {path.stem for path in FILES} >= SHIPPED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_suite_matches_its_description(path: Path) -> None:
    plan = plan_of(path.stem)
    assert plan.suite.section.suite == path.stem
    assert plan.output == Path("outputs/benchmarks") / path.stem
    assert (plan.notices, plan.warnings) == ([], [])
    assert all(registry.has("adapters", run.config["peft"]["method"]) for run in plan.runs)
    head = re.match(r"(#.*\n)+", path.read_text("utf-8"))
    assert head is not None, "no opening comment"
    assert f"python benchmark.py --config configs/benchmarks/{path.name}" in head[0]
    assert "memory" in head[0]
    for number in re.findall(r"^# (\d+|Eight|Nine|Twelve|Five) runs", head[0], re.MULTILINE):
        words = {"Eight": 8, "Nine": 9, "Twelve": 12, "Five": 5}
        assert len(plan.runs) == words.get(number) or len(plan.runs) == int(number)


def settings(name: str) -> dict[str, tuple[float, float, int]]:
    return {
        run.task: tuple(run.config["training"][key] for key in
                        ("learning_rate", "num_train_epochs", "per_device_train_batch_size"))
        for run in plan_of(name).runs
    }  # fmt: skip


def test_the_side_network_has_the_settings_of_each_task() -> None:
    assert settings("glue_qst_llama3") == {
        "cola": (2e-4, 5, 16), "sst2": (2e-4, 3, 32), "mrpc": (3e-4, 5, 16), "stsb": (2e-4, 5, 16),
        "qqp": (2e-4, 3, 32), "mnli": (2e-4, 3, 32), "qnli": (2e-4, 3, 32), "rte": (3e-4, 5, 16),
    }  # fmt: skip
    section = plan_of("glue_qst_llama3").suite.section
    assert (section.results.language, section.results.name) == ("zh", "QST_GLUE_Results_{timestamp}")
    assert {run.config["peft"]["method"] for run in plan_of("glue_qst_llama3").runs} == {"qst"}


@pytest.mark.parametrize("size", ["base", "large"])
def test_bert_is_fully_fine_tuned_on_nine_tasks(size: str) -> None:
    plan = plan_of(f"glue_bert_{size}")
    epochs = {run.task: run.config["training"]["num_train_epochs"] for run in plan.runs}
    assert epochs == {**dict.fromkeys(("cola", "sst2", "mrpc", "stsb", "qqp", "qnli", "rte", "wnli"), 5), "mnli": 3}
    assert {run.config["peft"]["method"] for run in plan.runs} == {"none"}
    assert {run.config["model"]["name_or_path"] for run in plan.runs} == {f"google-bert/bert-{size}-uncased"}


def test_methods_are_compared_with_head_only_and_majority() -> None:
    plan = plan_of("glue_methods")
    assert {"lora", "qst", "full", "head-only"} <= set(plan.methods)
    assert plan.suite.section.baselines == ["majority"]


def test_the_quickstart_is_two_tasks_three_methods_two_seeds() -> None:
    plan = plan_of("quickstart")
    assert len(plan.runs) == 12
    assert (len(plan.suite.tasks), len(plan.methods), plan.suite.section.seeds) == (2, 3, [1, 2])


def test_metamath_has_the_settings_of_pefts_comparison() -> None:
    run = plan_of("metamath_gsm8k").runs[0]
    training = run.config["training"]
    assert run.config["model"]["name_or_path"] == "meta-llama/Llama-3.2-3B"
    keys = ("max_steps", "per_device_train_batch_size", "learning_rate", "weight_decay", "lr_scheduler_type")
    assert [training[key] for key in keys] == [5000, 4, 1e-4, 0.1, "cosine"]
    assert run.config["sft"]["max_length"] == 768
    assert run.config["dataset"]["prompt_template"] == "Question: {query} Think step by step.\nAnswer:"
    assert (run.config["peft"]["lora_r"], run.config["peft"]["lora_alpha"]) == (32, 64)
    assert run.config["evaluation"]["sets"] == ["gsm8k"]
