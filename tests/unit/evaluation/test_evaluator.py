"""An evaluation's scores are those of its answers; an interrupted one is resumed only for the same work."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.config.sections.generation import GenerationSection
from utils.core.errors import DataError, UserError
from utils.evaluation.evaluator import evaluate_set
from utils.evaluation.files import SetFiles, copy_answers
from utils.evaluation.identity import hash_model
from utils.evaluation.score import SetScore, comparable
from utils.evaluation.sets import EvaluationSet
from utils.generation.backends.transformers import Backend
from utils.metrics.bootstrap import bootstrap_interval, bootstrap_mean
from utils.metrics.scoring import compute_metrics

ROOT = Path(__file__).parents[3]
SECTION = GenerationSection(max_new_tokens=24, batch_size=8)
METRICS = ("em_strict", "em_flexible", "invalid_rate", "token_f1", "rouge_l")


@pytest.fixture
def known(quickstart_model: tuple[Any, Any], arithmetic: Path) -> EvaluationSet:
    """Return 40 problems phrased so that the base model continues them as in its training text."""
    tokenizer = quickstart_model[1]
    rows = [json.loads(line) for line in (arithmetic / "test.jsonl").read_text().splitlines()[:40]]
    asked = [row["answer"].split(" is ")[0] + " is" for row in rows]
    return EvaluationSet(
        label="sums", prompts=[tokenizer(text)["input_ids"] for text in asked],
        references=[row["answer"] for row in rows], ids=[f"test.jsonl:{number + 1}" for number in range(40)],
        metrics=METRICS, stop=("#",), protocol="sums", num_total=300, prompt_hash="p", fingerprint="f",
    )  # fmt: skip


def count_calls(model: Any, run: Callable[[], SetScore]) -> tuple[SetScore, int]:
    calls: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        return run(), len(calls)
    finally:
        hook.remove()


def read(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same(one: SetScore, other: SetScore) -> bool:
    timeless = {"seconds": 0.0, "tokens_per_s": 0.0}
    return dataclasses.replace(one, **timeless) == dataclasses.replace(other, **timeless)


def test_scores_equal_those_computed_from_the_texts(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    model, tokenizer = quickstart_model
    score = evaluate_set(model, tokenizer, known, SECTION, tmp_path / "eval", (2,))
    backend = Backend(model, tokenizer, SECTION, ("#",))
    answers = dict(backend.generate_batch(known.prompts, range(len(known.prompts))))
    texts = [answers[row].text for row in range(40)]
    rows = read(tmp_path / "eval")
    assert [row["prediction"] for row in rows] == texts
    assert [row["id"] for row in rows] == known.ids
    assert [row["references"] for row in rows] == [[text] for text in known.references]
    assert rows[3]["prompt"] == tokenizer.decode(known.prompts[3])
    assert score.metrics == pytest.approx(compute_metrics(METRICS, texts, known.references, 1))
    assert 0 < score.metrics["em_flexible"] < 1, "some sums are right, some are wrong"
    for name in METRICS:
        assert score.interval[name] == pytest.approx(bootstrap_interval(name, texts, known.references, 1))
        assert sum(row["scores"][name] for row in rows) / 40 == pytest.approx(score.metrics[name])
    assert (score.n, score.num_total, score.partial, score.shots, score.protocol) == (40, 300, True, 0, "sums")
    assert score.mean_tokens == sum(each.num_tokens for each in answers.values()) / 40
    assert score.num_unfinished == sum(not each.finished for each in answers.values())
    assert score.seconds > 0
    written = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert written["version"] == 1
    assert SetScore.from_dict(written) == score
    assert comparable(score, written) is None
    assert {each.name for each in (tmp_path / "eval").iterdir()} == {
        "predictions.jsonl",
        "results.json",
        "identity.json",
    }


def test_several_answers_belong_to_one_row(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    groups = [{"kind": "first" if row < 20 else "second"} for row in range(40)]
    several = dataclasses.replace(known, num_answers=4, metrics=("em_flexible", "token_f1"), groups=groups)
    score = evaluate_set(*quickstart_model, several, SECTION, tmp_path)
    rows = [row["scores"] for row in read(tmp_path)]
    means = {name: np.array([row[name] for row in rows]).reshape(10, 4).mean(axis=1) for name in several.metrics}
    assert (score.n, score.num_answers, len(rows)) == (10, 4, 40)
    for name, mean in means.items():
        assert score.metrics[name] == pytest.approx(mean.mean())
        assert score.interval[name] == pytest.approx(bootstrap_mean(mean)), "rows are resampled, not answers"
        assert score.groups["kind"]["second"]["metrics"][name] == pytest.approx(mean[5:].mean())
    assert SetScore.from_dict(json.loads((tmp_path / "results.json").read_text())) == score
    assert evaluate_set(*quickstart_model, several, SECTION, tmp_path) == score, "no row is answered again"


def test_a_metric_computed_over_all_rows(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    (tmp_path / "length").mkdir()
    (tmp_path / "length" / "length.py").write_text(
        "import datasets\nimport evaluate\n"
        "class Length(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        kinds = {name: datasets.Value('string') for name in ('predictions', 'references')}\n"
        "        return evaluate.MetricInfo(description='', citation='', features=datasets.Features(kinds))\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'score': sum(map(len, predictions)) / sum(map(len, references))}\n"
    )
    name = f"evaluate:{tmp_path / 'length'}"
    both = dataclasses.replace(known, metrics=(name, "token_f1"))
    score = evaluate_set(*quickstart_model, both, SECTION, tmp_path / "eval")
    rows = read(tmp_path / "eval")
    assert [*rows[0]["scores"]] == ["token_f1"]
    length = sum(len(row["prediction"]) for row in rows) / sum(len(text) for text in known.references)
    assert list(score.metrics) == [name, "token_f1"], "the headline first"
    assert score.metrics[name] == pytest.approx(length)
    assert list(score.interval) == ["token_f1"]


def test_a_second_call_generates_nothing(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    model, tokenizer = quickstart_model
    first = evaluate_set(model, tokenizer, known, SECTION, tmp_path)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    second, num_calls = count_calls(model, lambda: evaluate_set(model, tokenizer, known, SECTION, tmp_path))
    assert num_calls == 0
    assert second == first
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    fewer = dataclasses.replace(known, metrics=("exact_match",))
    assert evaluate_set(model, tokenizer, fewer, SECTION, tmp_path).metrics.keys() == {"exact_match"}
    assert read(tmp_path)[0]["scores"].keys() == {"exact_match"}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "top_p": 0.9}])
@pytest.mark.parametrize("num_left", [0, 1, 13, 39])
def test_an_interrupted_evaluation_is_resumed(
    settings: dict[str, Any], num_left: int, quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    model, tokenizer = quickstart_model
    section = SECTION.model_copy(update=settings)
    whole = evaluate_set(model, tokenizer, known, section, tmp_path)
    rows = read(tmp_path)
    file = tmp_path / "predictions.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[30 : 30 + num_left] + lines[:30][: max(0, num_left - 10)]) + lines[0][:25])
    (tmp_path / "results.json").unlink()
    other_batches = section.model_copy(update={"batch_size": 5})
    with caplog.at_level(logging.INFO):
        again = evaluate_set(model, tokenizer, known, other_batches, tmp_path)
    assert same(again, whole)
    assert read(tmp_path) == rows
    assert ("continuing after" in caplog.text) == (num_left > 0)


def test_different_work_starts_over_with_a_notice(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer = copy.deepcopy(quickstart_model[0]), quickstart_model[1]
    evaluate_set(model, tokenizer, known, SECTION, tmp_path)
    longer = SECTION.model_copy(update={"max_new_tokens": 25})
    turned = dataclasses.replace(known, prompts=known.prompts[::-1])
    for what, changed_set, section in (
        ("generation", known, longer), ("prompts", turned, longer), ("prompts and generation", known, SECTION),
    ):  # fmt: skip
        caplog.clear()
        score = evaluate_set(model, tokenizer, changed_set, section, tmp_path)
        assert f"starting again, since an earlier call had other {what}" in caplog.text
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.01)
    caplog.clear()
    moved = evaluate_set(model, tokenizer, known, SECTION, tmp_path)
    assert "starting again, since an earlier call had other model" in caplog.text
    assert moved.identity["model"] != score.identity["model"]
    assert len(read(tmp_path)) == 40


def test_unrelated_files_are_not_overwritten(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    for name in ("results.json", "predictions.jsonl"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text('{"status": "success"}')
        with pytest.raises(UserError, match=rf"holds {name} of something else; evaluate into another folder"):
            evaluate_set(*quickstart_model, known, SECTION, folder)
        assert (folder / name).read_text() == '{"status": "success"}'


def test_rows_without_a_gold_answer_count_for_the_other_metrics(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    half = [text if index % 2 else "no number" for index, text in enumerate(known.references)]
    score = evaluate_set(*quickstart_model, dataclasses.replace(known, references=half), SECTION, tmp_path)
    assert score.num_scored == {name: 20 if name in ("em_strict", "em_flexible") else 40 for name in METRICS}
    assert [row["scores"]["em_flexible"] is None for row in read(tmp_path)] == [True, False] * 20


def test_a_metric_that_no_reference_has_an_answer_for_is_absent(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = {key: getattr(known, key)[:4] for key in ("prompts", "ids")}
    without = dataclasses.replace(known, references=["no number"] * 4, **few)
    score = evaluate_set(*quickstart_model, without, SECTION, tmp_path)
    assert score.metrics.keys() == score.interval.keys() == {"invalid_rate", "token_f1", "rouge_l"}
    assert "sums: no reference has an answer for em_strict, em_flexible; left out" in caplog.text


def test_long_prompts_are_refused_before_generation(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    long = dataclasses.replace(known, prompts=[*known.prompts[:-1], [5] * 256])
    with pytest.raises(DataError, match="prompt 40 has 256 tokens, and the model has 256 positions"):
        evaluate_set(*quickstart_model, long, SECTION, tmp_path)
    assert not (tmp_path / "predictions.jsonl").exists()


def test_model_identity_covers_weights_and_active_adapters(quickstart_model: tuple[Any, Any]) -> None:
    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(quickstart_model[0])
    assert hash_model(model) == hash_model(quickstart_model[0])
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    first = hash_model(adapted)
    with adapted.disable_adapter():
        assert hash_model(adapted) != first
    assert hash_model(adapted) == first
    assert hash_model(adapted.train()) == hash_model(adapted.eval())
    with torch.no_grad():
        next(p for name, p in adapted.named_parameters() if "lora_B" in name).add_(1e-6)
    assert hash_model(adapted) != first


def test_model_identity_covers_the_config(quickstart_model: tuple[Any, Any]) -> None:
    """With another `lora_alpha` or `rope_theta` the same weights give other answers, which must not be reused."""
    from peft import LoraConfig, get_peft_model

    def build(**keys: Any) -> Any:
        torch.manual_seed(0)
        settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **keys)
        return get_peft_model(copy.deepcopy(quickstart_model[0]), settings)

    models = [build(lora_alpha=8), build(lora_alpha=12), build(lora_alpha=8, use_rslora=True)]
    edited = build(lora_alpha=8)
    edited.config.rope_parameters["rope_theta"] *= 2
    assert len({hash_model(each) for each in (*models, edited)}) == 4
    edited.config.rope_parameters["rope_theta"] /= 2
    edited.config.use_cache = False
    assert hash_model(edited) == hash_model(models[0])


PROCESS = """
import json, os, pickle, sys
from pathlib import Path
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer
from utils.evaluation.evaluator import evaluate_set
from utils.config.sections.generation import GenerationSection

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
model = AutoModelForCausalLM.from_pretrained("examples/quickstart/base")
tokenizer = AutoTokenizer.from_pretrained("examples/quickstart/base")
known = pickle.loads((folder / "known.pickle").read_bytes())
# Both name one folder, and the second may not write there.
where = folder / "eval" if rank == 0 else Path("/proc/none")
score = evaluate_set(model, tokenizer, known, GenerationSection(max_new_tokens=24, batch_size=3), where)
(folder / f"{rank}.json").write_text(json.dumps(score.to_dict()))
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # on a loaded machine one of gloo's threads may outlive the interpreter, which then aborts
"""


def test_two_processes_give_the_scores_of_one(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    import pickle

    few = dataclasses.replace(known, **{key: getattr(known, key)[:23] for key in ("prompts", "references", "ids")})
    alone = evaluate_set(*quickstart_model, few, SECTION, tmp_path / "alone")
    (tmp_path / "known.pickle").write_bytes(pickle.dumps(few))
    (tmp_path / "eval").mkdir()
    for name in ("identity.json", "predictions.jsonl"):  # the two continue after what one process did
        content = (tmp_path / "alone" / name).read_bytes().splitlines(keepends=True)
        (tmp_path / "eval" / name).write_bytes(b"".join(content[2:6] if name.startswith("pred") else content))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)], cwd=ROOT, env=environment)
        for rank in range(2)
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    scores = [SetScore.from_dict(json.loads((tmp_path / f"{rank}.json").read_text())) for rank in range(2)]
    assert scores[0] == scores[1]
    assert same(scores[0], alone)
    assert read(tmp_path / "eval") == read(tmp_path / "alone")


FAILING_PROCESS = """
import dataclasses, os, pickle, sys
from pathlib import Path
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer
from utils.evaluation.evaluator import evaluate_set
from utils.evaluation.processes import FAILURES, describe_failure
from utils.config.sections.generation import GenerationSection

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
model = AutoModelForCausalLM.from_pretrained("examples/quickstart/base")
tokenizer = AutoTokenizer.from_pretrained("examples/quickstart/base")
known = pickle.loads((folder / "known.pickle").read_bytes())
if rank == 1:
    known = dataclasses.replace(known, ids=[])
try:
    evaluate_set(model, tokenizer, known, GenerationSection(max_new_tokens=4, batch_size=2), folder / "eval")
except FAILURES as error:
    (folder / f"{rank}.txt").write_text(describe_failure(error))
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


def test_a_failure_in_one_process_ends_the_set_in_all_processes(known: EvaluationSet, tmp_path: Path) -> None:
    """No process waits for another: both report the cause and synchronise afterwards."""
    import pickle

    few = dataclasses.replace(known, **{key: getattr(known, key)[:7] for key in ("prompts", "references", "ids")})
    (tmp_path / "known.pickle").write_bytes(pickle.dumps(few))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", FAILING_PROCESS, str(rank), str(tmp_path)], cwd=ROOT, env=environment)
        for rank in range(2)
    ]
    assert [process.wait(200) for process in started] == [0, 0]
    own, others = (tmp_path / "1.txt").read_text(), (tmp_path / "0.txt").read_text()
    assert own.startswith("IndexError: ")
    assert others == f"in another process: {own}"


def test_a_datasets_protocol_overrides_the_runs_settings(
    quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path
) -> None:
    model, tokenizer = quickstart_model
    few = dataclasses.replace(known, **{key: getattr(known, key)[:4] for key in ("prompts", "references", "ids")})
    drawing = SECTION.model_copy(update={"temperature": 1.5, "top_p": 0.9})
    strict = dataclasses.replace(few, max_new_tokens=3, greedy=True)
    score = evaluate_set(model, tokenizer, strict, drawing, tmp_path / "own")
    plain = evaluate_set(model, tokenizer, few, SECTION.model_copy(update={"max_new_tokens": 3}), tmp_path / "plain")
    assert read(tmp_path / "own") == read(tmp_path / "plain")
    assert score.generation == plain.generation
    assert score.generation["max_new_tokens"] == 3


def test_sets_may_share_a_folder(quickstart_model: tuple[Any, Any], known: EvaluationSet, tmp_path: Path) -> None:
    few = dataclasses.replace(known, **{key: getattr(known, key)[:3] for key in ("prompts", "references", "ids")})
    for prefix in ("base_a_", "base_b_"):
        evaluate_set(*quickstart_model, few, SECTION, SetFiles(tmp_path, prefix))
    names = ("a_predictions.jsonl", "a_results.json", "b_predictions.jsonl", "b_results.json")
    assert {each.name for each in tmp_path.iterdir()} == {
        *(f"base_{name}" for name in names),
        ".base_a_identity.json",
        ".base_b_identity.json",
    }
    copy_answers(SetFiles(tmp_path, "base_a_"), SetFiles(tmp_path / "own"))
    _, num_calls = count_calls(
        quickstart_model[0], lambda: evaluate_set(*quickstart_model, few, SECTION, tmp_path / "own")
    )
    assert num_calls == 0
