"""Datasets with their own prompt and protocol keep them in any run; a benchmark expands into many sets."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.config.sections.evaluation import EvaluationSection
from utils.config.sections.generation import GenerationSection
from utils.core.errors import ConfigError, DataError
from utils.evaluation.history import hash_asked
from utils.evaluation.sets import AnswerSettings, EvaluationSet, load_evaluation_sets

QUESTION = {"question": "Who is it?", "best_answer": "Ann", "correct_answers": ["Ann"], "incorrect_answers": ["Bob"]}


def row(subset: str, number: int, **more: Any) -> dict[str, Any]:
    return {
        "input": f"Who wrote number {number}?", "context": f"Ann wrote number {number}. " * 40, "answers": ["Ann"],
        "length": 9, "dataset": subset, "language": "en", "all_classes": None, "_id": f"{subset}{number}", **more,
    }  # fmt: skip


@pytest.fixture
def longbench(tmp_path: Path) -> Path:
    classes = {"trec": {"all_classes": ["Ann", "Bob"]}}
    for subset in ("hotpotqa", "samsum", "trec", "qmsum"):
        lines = [json.dumps(row(subset, number, **classes.get(subset, {}))) for number in range(5)]
        (tmp_path / f"{subset}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def load(encoder: Any, describe: Callable[..., Any], arithmetic: Path) -> Callable[..., dict[str, EvaluationSet]]:
    """Return a function that loads evaluation sets by label for a run on word problems."""

    def load(*sets: Any, window: int | None = None, temperature: float = 0.0, **more: Any) -> dict[str, EvaluationSet]:
        evaluation = EvaluationSection.model_validate({"sets": list(sets), **more})
        answers = AnswerSettings(GenerationSection(max_new_tokens=16, temperature=temperature), window)
        own = describe("gsm8k", path=arithmetic)
        return {each.label: each for each in load_evaluation_sets(evaluation, *own, encoder, 42, answers)}

    return load


def test_truthfulqa_keeps_its_own_protocol(
    load: Callable[..., Any], make_set: Callable[..., Path], encoder: Any
) -> None:
    path = str(make_set(validation=[QUESTION] * 3))
    known = load({"name": "truthfulqa", "path": path})["truthfulqa"]
    assert encoder.tokenizer.decode(known.prompts[0], skip_special_tokens=True) == "Q: Who is it?\nA:"
    assert known.metrics == known.combined_metrics == ("truthfulqa_accuracy", "truthfulqa_avg_max_score")
    assert known.references[0] == {"correct": ["Ann"], "incorrect": ["Bob"], "scorer": "rougeL"}
    assert (known.scorer, known.max_new_tokens, known.greedy, known.stop) == ("rougeL", 128, True, ())
    assert known.facts["questions"] == 3
    assert known.own_prompt
    assert known.questions == ["Who is it?"] * 3
    changed = load({"name": "truthfulqa", "path": path, "max_new_tokens": 9, "max_samples": 2}, max_samples=1)
    assert (changed["truthfulqa"].max_new_tokens, len(changed["truthfulqa"].prompts)) == (9, 2)


def test_a_missing_scorer_is_refused_before_generation(load: Callable[..., Any], make_set: Callable[..., Path]) -> None:
    from importlib.util import find_spec

    if find_spec("bleurt") is not None:
        pytest.skip("package bleurt is installed here")
    path = str(make_set(validation=[QUESTION] * 3))
    with pytest.raises(ConfigError, match="bleurt needs package bleurt"):
        load({"name": "truthfulqa", "path": path}, truthfulqa={"scorer": "bleurt"})


def test_a_benchmark_expands_into_a_set_per_subset(load: Callable[..., Any], longbench: Path) -> None:
    named = {"name": "longbench", "path": str(longbench)}
    found = load({**named, "subsets": ["hotpotqa", "samsum", "trec"]}, {"name": "qmsum", "path": str(longbench)})
    assert list(found) == ["longbench_hotpotqa", "longbench_samsum", "longbench_trec", "qmsum"]
    assert [each.max_new_tokens for each in found.values()] == [32, 128, 64, 512]
    assert [each.stop for each in found.values()] == [(), ("\n",), (), ()]
    assert [each.min_new_tokens for each in found.values()] == [0, 1, 0, 0]
    assert {each.metrics for each in found.values()} == {("longbench_score",), ("rouge_l",)}
    assert all(each.official_truncation and each.greedy and len(each.prompts) == 5 for each in found.values())
    assert found["longbench_trec"].references[0]["all_classes"] == ["Ann", "Bob"]
    assert found["qmsum"].references == ["Ann"] * 5
    assert found["longbench_trec"].contexts[1] == row("trec", 1)["context"]
    assert len({each.prompt_hash for each in found.values()}) == 4


def test_labels_of_a_benchmarks_subsets(load: Callable[..., Any], longbench: Path) -> None:
    named = {"name": "longbench", "path": str(longbench)}
    assert list(load({**named, "subset": "trec", "label": "mine"})) == ["mine"]
    both = load({**named, "subsets": ["trec", "samsum"], "label": "mine"})
    assert list(both) == ["mine_longbench_trec", "mine_longbench_samsum"]
    with pytest.raises(ConfigError, match="two results are called longbench_trec; give one of their sets another"):
        load({**named, "subsets": ["trec"]}, {**named, "subset": "trec", "label": "longbench_trec"})
    with pytest.raises(ConfigError, match=r"evaluation.sets: gsm8k: the dataset gsm8k takes no subsets; leave it out"):
        load({"name": "gsm8k", "subsets": ["a"]})
    with pytest.raises(
        ConfigError, match=r"evaluation.sets: longbench: subsets: .*no subset of LongBench is called trac"
    ):
        load({**named, "subsets": ["trac"]})


def test_a_benchmarks_prompts_are_cut_to_the_models_context(
    load: Callable[..., Any], longbench: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = {"name": "longbench", "path": str(longbench), "subset": "hotpotqa"}
    [whole] = load(named).values()
    assert (whole.num_cut, whole.prompt_limit) == (0, None)
    assert whole.needs_cutting(256, 16)
    with caplog.at_level(logging.WARNING):
        [cut] = load(named, window=256).values()
    assert (cut.num_cut, cut.prompt_limit) == (5, 256 - 32)
    assert max(map(len, cut.prompts)) <= 256 - 32
    assert not cut.needs_cutting(256, 16)
    assert cut.prompt_hash == whole.prompt_hash
    assert "5 of 5 prompts are longer than 224 tokens" in caplog.text
    [asked] = load(named, max_prompt_length=100).values()
    assert (asked.num_cut, asked.prompt_limit) == (5, 100)


def test_an_ignored_temperature_is_reported_once(
    load: Callable[..., Any], longbench: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = {"name": "qmsum", "path": str(longbench)}
    with caplog.at_level(logging.WARNING):
        load(named, temperature=0.7)
        load(named, temperature=0.7, window=256)
    assert caplog.text.count("qmsum: its protocol is greedy; generation.temperature has no effect here") == 1


def test_metrics_unfit_for_the_references_are_refused(load: Callable[..., Any], longbench: Path) -> None:
    named = {"name": "longbench", "path": str(longbench), "subset": "trec"}
    with pytest.raises(DataError, match="longbench_trec: its references are not of the kind that the metric rouge_l"):
        load({**named, "metrics": ["rouge_l"]})
    with pytest.raises(DataError, match="not of the kind that the metric truthfulqa_accuracy"):
        load({"name": "gsm8k", "metrics": ["truthfulqa_accuracy"]})


def test_the_combined_score_uses_only_scored_metrics(load: Callable[..., Any], make_set: Callable[..., Path]) -> None:
    path = str(make_set(validation=[QUESTION] * 3))
    [only] = load({"name": "truthfulqa", "path": path, "metrics": ["truthfulqa_avg_max_score"]}).values()
    assert only.combined_metrics == ("truthfulqa_avg_max_score",)
    [own] = load("gsm8k").values()
    assert own.combined_metrics == ("em_strict",)


def test_code_similarity_follows_the_setting(load: Callable[..., dict[str, EvaluationSet]], tmp_path: Path) -> None:
    for subset in ("lcc", "hotpotqa"):
        (tmp_path / f"{subset}.jsonl").write_text(json.dumps(row(subset, 0, answers=["x + 1"])) + "\n")
    entry = {"name": "longbench", "path": str(tmp_path), "subsets": "lcc,hotpotqa"}
    plain = load(entry)
    assert [plain[name].scorer for name in ("longbench_lcc", "longbench_hotpotqa")] == ["difflib", None]
    assert "code_similarity" not in plain["longbench_lcc"].references[0], "answers of earlier versions are continued"
    other = load(entry, longbench={"code_similarity": "levenshtein"})
    assert [other[name].scorer for name in ("longbench_lcc", "longbench_hotpotqa")] == ["levenshtein", None]
    assert other["longbench_lcc"].references[0]["code_similarity"] == "levenshtein"
    assert other["longbench_hotpotqa"].references == plain["longbench_hotpotqa"].references
    assert hash_asked(plain["longbench_lcc"]) == hash_asked(dataclasses.replace(plain["longbench_lcc"], scorer=None))
    assert hash_asked(plain["longbench_lcc"]) != hash_asked(other["longbench_lcc"])
