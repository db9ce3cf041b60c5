"""Generation during training: a killed run resumes it, a failing dataset is reported, the best step is kept."""

from __future__ import annotations

import io
import json
import re

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from utils.config.yaml_text import dump_yaml
from utils.generation.backends.transformers import Backend
from utils.results.record import BestMetric
from utils.results.table import render_result_table
from utils.runs.opening import open_run_folder
from utils.trainer.callbacks import EarlyStoppingCallback

KEYS = {
    "training__max_steps": 6,
    "training__save_strategy": "steps",
    "training__save_steps": 3,
    "training__per_device_train_batch_size": 4,
    "peft": {"method": "lora", "lora_r": 4, "target_modules": "all-linear", "lora_dropout": 0.2},
    "generation": {"max_new_tokens": 6, "batch_size": 2},
}
TWO_SETS = [
    {"name": "gsm8k", "label": "sums", "split": "test", "metrics": ["rouge_l"]},
    {"name": "gsm8k", "label": "others", "split": "test_unseen", "metrics": ["token_f1", "invalid_rate"]},
]
EVALUATION = {"steps": 2, "at_start": True, "max_samples": 5, "sets": TWO_SETS}


class _Killed(BaseException):
    """Stand-in for the end of a process, which nothing catches."""


def _train(prepare_run, make_sft, resume=None, kill_after=None, **keys):
    run = prepare_run(config=make_sft(**{**KEYS, "evaluation": EVALUATION, **keys}))
    with pytest.MonkeyPatch.context() as patch:
        if kill_after is not None:
            _kill_after(patch, kill_after)
        run.trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return run


def _kill_after(patch, num_answers):
    """End training after the given number of answered prompts."""
    write, answered = Backend.generate_batch, []

    def count(*given):
        for answer in write(*given):
            if len(answered) == num_answers:
                raise _Killed
            answered.append(answer)
            yield answer

    patch.setattr(Backend, "generate_batch", count)


def _finish(run):
    from utils.modeling.sizes import count_parameters
    from utils.results.record import RunRecord

    record = RunRecord(status="failed", task_name="t", task_type="CAUSAL_LM", method="lora")
    return run.task.score(run.trainer, run.data, record, count_parameters(run.model), run.measuring).record


def _history(folder):
    history = json.loads((folder / "eval_history.json").read_text())
    for entry in history["history"]:
        entry.pop("timestamp")
    return history


def _files(folder):
    """Read all files that evaluations wrote, without timings."""
    found = {}
    for path in sorted(folder.glob("eval_step_*/*")):
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else []
        for row in rows:
            row.pop("seconds")
        content = rows or json.loads(path.read_text())
        for key in ("seconds", "tokens_per_s") if isinstance(content, dict) else ():
            content.pop(key, None)
        found[str(path.relative_to(folder))] = content
    return found


def _losses(run):
    return {log["step"]: log["loss"] for log in run.trainer.state.log_history if "loss" in log}


def _scores(run):
    return [log for log in run.trainer.state.log_history if "eval_combined_score" in log]


def _best_state(run):
    """Return the best step, its score, and the number of evaluations since."""
    callbacks = run.trainer.callback_handler.callbacks
    counts = [each.early_stopping_patience_counter for each in callbacks if isinstance(each, EarlyStoppingCallback)]
    return run.trainer.state.best_global_step, run.trainer.state.best_metric, counts


def _steps(folder):
    return sorted(int(each.name.split("-")[1]) for each in folder.glob("checkpoint-*"))


@pytest.fixture
def run_folder(tmp_path):
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_killed_inside_evaluations_has_the_same_history(prepare_run, make_sft, run_folder, tmp_path, caplog):
    """Killed at the start, in the middle, and in the last step's evaluation; each evaluation has 2 x 5 prompts."""
    short = {"training__max_steps": 4, "training__early_stopping_patience": 9}
    short["generation"] = {"max_new_tokens": 6, "batch_size": 1}  # four batches are generated together: 4 rows, then 1
    whole = _train(prepare_run, make_sft, **short)
    whole_record = _finish(whole)
    expected, written = _history(run_folder), _files(run_folder)
    assert [entry["step"] for entry in expected["history"]] == [0, 2, 4]
    assert len(written) == 3 * 6
    rows = written["eval_step_2/base_sums_predictions.jsonl"]
    assert {"id", "prompt", "prediction", "references", "scores"} <= rows[0].keys()
    assert len(rows) == 5
    kept = _steps(run_folder)
    run_folder.rename(tmp_path / "whole")

    # Unfinished rows of the four batches are answered again.
    for resume, num_answers in ((None, 8), (0, 5 + 8), (2, 5 + 4)):
        checkpoint = None if resume is None else run_folder / f"checkpoint-{resume}"
        with pytest.raises(_Killed):
            _train(prepare_run, make_sft, checkpoint, num_answers, **short)
    caplog.clear()
    caplog.set_level("INFO")
    resumed = _train(prepare_run, make_sft, run_folder / "checkpoint-4", **short)
    assert "continuing after 4 answers of an earlier call" in caplog.text
    assert _history(run_folder) == expected
    assert _files(run_folder) == written
    assert _steps(run_folder) == kept
    record = _finish(resumed)
    assert record.evaluation["combined"] == whole_record.evaluation["combined"]
    assert _losses(resumed) == _losses(whole), "the evaluations changed nothing"
    assert _scores(resumed) == _scores(whole)
    assert _best_state(resumed) == _best_state(whole)
    saved = [
        load_file(each / "checkpoint-4" / "adapter_model.safetensors") for each in (run_folder, tmp_path / "whole")
    ]
    assert all(torch.equal(value, saved[1][name]) for name, value in saved[0].items())


def test_resuming_earlier_sets_later_evaluations_aside(prepare_run, make_sft, run_folder, caplog):
    _train(prepare_run, make_sft, training__save_total_limit=None)
    expected = _history(run_folder)
    _train(prepare_run, make_sft, run_folder / "checkpoint-3", training__save_total_limit=None)
    assert _history(run_folder) == expected
    assert "steps to be repeated (4, 6) are set aside" in caplog.text
    [aside] = run_folder.glob("eval_history.*.json")
    assert [entry["step"] for entry in json.loads(aside.read_text())["history"]] == [4, 6]


def test_a_failing_set_is_reported_and_the_run_continues(prepare_run, make_sft, run_folder, caplog):
    (run_folder / "eval_step_2" / "base_others_results.json").mkdir(parents=True)
    run = _train(prepare_run, make_sft)
    record = _finish(run)
    history = _history(run_folder)
    failed = history["history"][1]
    assert failed["combined_score"] is None
    assert "holds base_others_results.json of something else" in failed["results"]["others"]["error"]
    assert failed["results"]["sums"]["n"] == 5
    assert history["best_step"] in (0, 4, 6)
    assert [entry["combined_score"] is None for entry in history["history"]] == [False, True, False, False]
    assert record.status == "success"
    assert any("step 2: others failed" in warning for warning in record.warnings)
    assert "eval_combined_score" not in [log for log in run.trainer.state.log_history if log["step"] == 2][-1]


@pytest.mark.parametrize("steps", [2, None])
def test_best_metric_names_the_selecting_metric(steps, prepare_run, make_sft):
    """The loss selects, and a dataset is scored: its score is the headline but is not called the best."""
    run = _train(
        prepare_run, make_sft, evaluation={"max_samples": 3, "steps": steps, "sets": TWO_SETS[:1]},
        training__learning_rate=2.0, training__eval_strategy="steps", training__eval_steps=2,
        training__load_best_model_at_end=True, training__save_strategy="steps", training__save_steps=2,
    )  # fmt: skip
    record = _finish(run)
    losses = {log["step"]: log["eval_loss"] for log in run.trainer.state.log_history if "eval_loss" in log}
    best = min(losses, key=lambda step: losses[step])
    assert (record.best_metric.name, record.best_metric.step) == ("loss", best)
    assert record.best_metric.value == pytest.approx(losses[best], rel=1e-5)
    assert record.read_headline() == ("rouge_l", record.metrics["rouge_l"])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_result_table(record, "en", []))
    shown = console.export_text()
    assert re.search(rf"chosen by\W+loss {losses[best]:.4f} \(step {best}\)", shown)
    assert not re.search(r"sums, best \(", shown)


def test_the_best_steps_weights_become_the_final_model(prepare_run, make_sft, run_folder):
    """At this learning rate the model stops generating sensibly at once."""
    run = _train(
        prepare_run, make_sft, training__load_best_model_at_end=True, training__learning_rate=2.0,
        training__save_total_limit=1,
    )  # fmt: skip
    last = load_file(run_folder / "checkpoint-6" / "adapter_model.safetensors")
    assert _steps(run_folder) == [0, 6]
    record = _finish(run)
    assert (run_folder / "best_model").resolve().name == "checkpoint-0"
    final = {name: value for name, value in run.model.state_dict().items() if "lora_B" in name}
    assert all(value.abs().sum() == 0 for value in final.values()), "a new adapter has no effect"
    assert all(value.abs().sum() > 0 for name, value in last.items() if "lora_B" in name)
    combined = record.evaluation["combined"]
    assert (combined["kept_step"], combined["best_step"], combined["last_step"]) == (0, 0, 6)
    assert combined["combined_score"] == combined["best_score"] > combined["last_score"]
    assert record.best_metric == BestMetric("combined", combined["best_score"], 0), "the sum over both sets selected it"
    assert record.read_headline() == ("rouge_l", record.metrics["rouge_l"])
    assert record.metrics["rouge_l"] == record.evaluation["sums"]["best_combined"]["rouge_l"]
    assert record.metrics_last["rouge_l"] == record.evaluation["sums"]["last"]["rouge_l"]
    final_results = json.loads((run_folder / "final_eval_results.json").read_text())
    assert (final_results["step"], final_results["combined_score"]) == (0, combined["best_score"])
    answers = [
        (run_folder / name).read_bytes()
        for name in ("eval_step_0/base_sums_predictions.jsonl", "eval_sums/predictions.jsonl")
    ]
    assert answers[0] == answers[1], "the best step's answers are reused"


@pytest.mark.parametrize("older", [False, True])
def test_early_stopping_follows_a_generated_score(older, prepare_run, make_sft, run_folder, caplog):
    evaluation = {"steps": 2, "max_samples": 2, "sets": TWO_SETS}
    if older:
        evaluation |= {"early_stopping_patience": 1, "early_stopping_metric": "others.invalid_rate"}
        keys = {}
    else:
        keys = {"training__early_stopping_patience": 1, "training__metric_for_best_model": "others_invalid_rate"}
    keys |= {"evaluation": evaluation, "training__max_steps": 12}
    caplog.set_level("INFO")
    run = _train(prepare_run, make_sft, **keys)
    assert run.trainer.state.global_step == 4
    assert run.trainer.args.greater_is_better is False
    assert "step 4: others_invalid_rate has not improved for 1 evaluations" in caplog.text
    resumed = _train(prepare_run, make_sft, run_folder / "checkpoint-4", **keys)
    assert resumed.trainer.state.global_step == 4, "a resumed run selects the same"
    assert _finish(resumed).evaluation["combined"]["last_step"] == 4


def test_the_best_step_is_recomputed_from_the_history(prepare_run, make_sft, run_folder, caplog):
    """Checkpoints are older than their own evaluation, and a resumed run may select by another metric."""
    keys = {"training__learning_rate": 2.0, "training__save_total_limit": None}
    scores = {"training__metric_for_best_model": "sums_rouge_l", "training__load_best_model_at_end": True}
    whole = _train(prepare_run, make_sft, **keys, **scores)
    entries = _history(run_folder)["history"]
    by_step = {entry["step"]: entry["results"]["sums"]["rouge_l"] for entry in entries}
    best = max(by_step, key=lambda step: by_step[step])
    assert _best_state(whole)[:2] == (best, by_step[best])
    assert (run_folder / "best_model").resolve().name == f"checkpoint-{best}"
    record = _finish(whole)
    assert record.best_metric == BestMetric("sums_rouge_l", by_step[best], best)

    resumed = _train(prepare_run, make_sft, run_folder / "checkpoint-6", **keys, **scores)
    assert _best_state(resumed) == _best_state(whole)
    changed = _train(prepare_run, make_sft, run_folder / "checkpoint-6", **keys,
                     training__metric_for_best_model="others.invalid_rate")  # fmt: skip
    rates = {entry["step"]: entry["results"]["others"]["invalid_rate"] for entry in entries}
    there = [step for step in rates if (run_folder / f"checkpoint-{step}").is_dir()]
    best = min(there, key=lambda step: rates[step])
    assert _best_state(changed)[:2] == (best, rates[best])
    assert ("remaining one is used" in caplog.text) == (rates[best] > min(rates.values()))


def test_a_run_of_an_earlier_version_is_resumed(prepare_run, make_sft, run_folder, caplog):
    """Its keys for the best step had other names, and its checkpoints do not record it."""
    older = {**EVALUATION, "load_best_at_end": True, "early_stopping_patience": 9, "early_stopping_threshold": 0.01}
    keys = {"training__learning_rate": 2.0, "evaluation": older}
    whole = _train(prepare_run, make_sft, **keys)
    resolved = make_sft(**{**KEYS, **keys}).to_dict()
    for key in ("early_stopping_patience", "early_stopping_threshold"):
        resolved["training"][key] = {"early_stopping_patience": None}.get(key, 0)
    resolved["training"]["load_best_model_at_end"] = False
    del resolved["training"]["metric_for_best_model"]
    resolved["evaluation"] |= {key: older[key] for key in older if key not in EVALUATION}
    resolved["evaluation"]["early_stopping_metric"] = "combined"
    (run_folder / "run.yaml").write_text(dump_yaml(resolved))
    for checkpoint in run_folder.glob("checkpoint-*"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        state |= {"best_metric": None, "best_global_step": None, "best_model_checkpoint": None}
        del state["stateful_callbacks"]["EarlyStoppingCallback"]
        (checkpoint / "complete.json").unlink()
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    opened = open_run_folder(make_sft(**{**KEYS, **keys}), "last")
    opened.close()
    assert (opened.resume_from, opened.changed) == (str(run_folder / "checkpoint-6"), None)
    resumed = _train(prepare_run, make_sft, opened.resume_from, **keys)
    assert _best_state(resumed) == _best_state(whole)
    assert _best_state(whole)[:2] == (0, _history(run_folder)["best_score"])
    assert _finish(resumed).best_metric == _finish(whole).best_metric


def test_loss_and_scores_are_evaluated_at_their_own_steps(prepare_run, make_sft, run_folder):
    """The loss is evaluated every step, scores every second; evaluations without the metric do not count."""
    keys = {"training__eval_strategy": "steps", "training__eval_steps": 1, "training__early_stopping_patience": 9}
    evaluation = {"steps": 2, "max_samples": 2, "sets": TWO_SETS}
    run = _train(prepare_run, make_sft, evaluation=evaluation, training__metric_for_best_model="combined", **keys)
    scores = {entry["step"]: entry["combined_score"] for entry in _history(run_folder)["history"]}
    best = max(scores, key=lambda step: scores[step])
    assert _best_state(run)[:2] == (best, scores[best])
    losses = [log["step"] for log in run.trainer.state.log_history if "eval_loss" in log]
    assert losses == [1, 2, 3, 4, 5, 6], "an evaluation of answers replaces none of the loss"


def test_evaluation_works_without_checkpoints(prepare_run, make_sft, run_folder):
    run = _train(prepare_run, make_sft, training__save_strategy="no", evaluation={**EVALUATION, "at_end": False})
    assert _steps(run_folder) == []
    assert [entry["step"] for entry in _history(run_folder)["history"]] == [0, 2, 4, 6]
    record = _finish(run)
    assert record.evaluation["sums"].keys() == {"best_combined", "last"}
    assert not (run_folder / "eval_sums").exists()
    assert not (run_folder / "best_model").exists()


def test_another_scorer_is_refused_when_resumed(prepare_run, make_sft, run_folder):
    from utils.core.errors import UserError

    _train(prepare_run, make_sft, training__max_steps=2)
    history = json.loads((run_folder / "eval_history.json").read_text())
    (run_folder / "eval_history.json").write_text(json.dumps({**history, "scorer": "bleurt"}))
    with pytest.raises(UserError, match="by the scorer bleurt and are not comparable"):
        _train(prepare_run, make_sft, run_folder / "checkpoint-2")
