"""A run stopped anywhere and resumed ends like an uninterrupted one, to the last bit of everything it logs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from utils.core.signals import Interrupted, deferred, handling_signals
from utils.results.curves import render_csv
from utils.trainer import watchdogs

SEQ_CLS = {
    "training__num_train_epochs": 2, "training__gradient_accumulation_steps": 2, "training__save_strategy": "steps",
    "training__save_steps": 50, "training__per_device_train_batch_size": 4, "training__logging_steps": 2,
    "training__report_to": "none", "training__save_total_limit": None,
}  # fmt: skip
"""40 rows: 5 steps per epoch, 10 in all. Checkpoints are saved only on interruption."""
SFT = {
    **SEQ_CLS, "training__per_device_train_batch_size": 6,
    "training__max_steps": 7, "training__num_train_epochs": 2,
}  # fmt: skip
"""48 rows: 4 steps per epoch."""
LORA = {"method": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.2}
METHODS = {"lora": LORA, "qst": {"method": "qst"}, "full": {"method": "none"}}
NOT_NUMBERS = ("runtime", "per_second", "flos")


class _SendSignal(TrainerCallback):
    """Callback that sends this process a real signal within a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


class _SendSignalInEvaluation(TrainerCallback):
    """Callback that sends the signal within the evaluation of a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def read_log(trainer: Any) -> list[dict[str, Any]]:
    """Read everything that was logged, without timings."""
    entries = [
        {key: value for key, value in entry.items() if not any(word in key for word in NOT_NUMBERS)}
        for entry in trainer.state.log_history
    ]
    return [entry for entry in entries if set(entry) - {"step", "epoch", "num_input_tokens_seen"}]


def read_weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def interrupt(run: Any, asking: TrainerCallback) -> Path:
    """Train until the signal stops the run and return its newest checkpoint."""
    from utils.trainer.checkpoint_files import find_checkpoints

    run.trainer.add_callback(asking)
    with handling_signals(), pytest.raises(Interrupted) as stopped, deferred():
        run.trainer.train()
    assert stopped.value.exit_code == 75
    [newest] = find_checkpoints(Path(run.config.training.output_dir))[-1:]
    return newest


def check_same(whole: Any, resumed: Any) -> None:
    assert resumed.trainer.state.global_step == whole.trainer.state.global_step
    assert read_log(resumed.trainer) == read_log(whole.trainer)
    tables = [render_csv(run.trainer.state.log_history) for run in (whole, resumed)]
    assert tables[0] == tables[1], "curves.csv, to the last digit"
    expected, actual = read_weights(whole.trainer), read_weights(resumed.trainer)
    assert expected
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert resumed.trainer.state.best_metric == whole.trainer.state.best_metric
    ends = [run.trainer.state.log_history[-1] for run in (whole, resumed)]
    samples = [end["train_runtime"] * end["train_samples_per_second"] for end in ends]
    assert samples[1] == pytest.approx(samples[0], rel=0.01), (
        "the tokens of all sessions over the seconds of all sessions"
    )


def compare(prepare_run: Any, tmp_path: Path, asking: TrainerCallback, step: int, configure: Any) -> None:
    """Run once without interruption and once interrupted at a step, and compare."""
    whole = prepare_run(config=configure(tmp_path / "whole"))
    whole.trainer.train()
    newest = interrupt(prepare_run(config=configure(tmp_path / "cut")), asking)
    assert newest.name == f"checkpoint-{step}"
    resumed = prepare_run(config=configure(tmp_path / "cut"))
    resumed.trainer.train(resume_from_checkpoint=str(newest))
    check_same(whole, resumed)


@pytest.mark.parametrize(("method", "step"), [("lora", 3), ("qst", 7), ("full", 7)])
def test_a_resumed_classifier_is_exact(method, step, prepare_run, make_config, tmp_path):
    """Within the first and the second epoch, between two logged steps, with accumulation and dropout."""

    def configure(run: Path) -> Any:
        settings = {**SEQ_CLS, "training__output_dir": str(run), "peft": METHODS[method]}
        return make_config("llama" if method == "qst" else "bert", **settings)

    compare(prepare_run, tmp_path, _SendSignal(step), step, configure)


@pytest.mark.parametrize(
    ("method", "step"),
    [("lora", 5), pytest.param("qst", 3, marks=pytest.mark.slow), pytest.param("full", 5, marks=pytest.mark.slow)],
)
def test_a_resumed_language_model_is_exact(method, step, prepare_run, make_sft, tmp_path):
    def configure(run: Path) -> Any:
        return make_sft(**{**SFT, "training__output_dir": str(run), "peft": METHODS[method]})

    compare(prepare_run, tmp_path, _SendSignal(step), step, configure)


PAIRS = {
    "name": "custom", "path": str(Path(__file__).parents[2] / "examples" / "quickstart" / "preference"),
    "prompt_template": "Question: {question}\nAnswer:", "max_train_samples": 48, "max_eval_samples": 8,
}  # fmt: skip
OTHER_TASKS: dict[str, dict[str, Any]] = {
    "dpo": {"dataset": PAIRS, "dpo": {"max_length": 128, "loss_type": ["sigmoid", "sft"]}, "peft": LORA},
    "dpo-full": {"dataset": PAIRS, "dpo": {"max_length": 128}, "peft": METHODS["full"]},
    "reward": {"dataset": PAIRS, "reward": {"max_length": 128}, "peft": LORA, "task_type": "SEQ_CLS", "sft": None,
               "generation": None, "evaluation": None},
    "grpo": {
        "grpo": {"rewards": {"em_flexible": 1.0, "token_f1": 1.0}, "max_completion_length": 24, "num_generations": 4,
                 "num_iterations": 3, "max_prompt_length": 128},
        "peft": LORA,
    },
}  # fmt: skip


@pytest.mark.parametrize("task", ["dpo", pytest.param("dpo-full", marks=pytest.mark.slow), "reward", "grpo"])
def test_resumed_preference_tuning_and_grpo_are_exact(task, prepare_run, make_sft, tmp_path):
    """Including the reference's log-probabilities, and answers that are trained on three times."""

    def configure(run: Path) -> Any:
        return make_sft(**{**SFT, "training__output_dir": str(run), **OTHER_TASKS[task]})

    compare(prepare_run, tmp_path, _SendSignal(5), 5, configure)


@pytest.mark.parametrize("step", [5, 10])
def test_an_interrupted_evaluation_is_repeated(step, prepare_run, make_config, tmp_path):
    """At the end of an epoch and of the run: the same best step is found."""

    def configure(run: Path) -> Any:
        settings = {**SEQ_CLS, "training__output_dir": str(run), "peft": LORA, "training__save_strategy": "epoch"}
        return make_config("bert", **settings, training__load_best_model_at_end=True)

    compare(prepare_run, tmp_path, _SendSignalInEvaluation(step), step, configure)


@pytest.mark.parametrize("step", [5, 10])
def test_an_evaluation_that_never_started_is_caught_up(step, prepare_run, make_config):
    """Killed between the checkpoint of an epoch's last step and the evaluation at its end."""
    keys = {**SEQ_CLS, "training__save_steps": 5, "peft": LORA, "training__eval_strategy": "epoch"}
    keys["training__load_best_model_at_end"] = False
    whole = prepare_run(config=make_config("bert", **keys))
    whole.trainer.train()
    resumed = prepare_run(config=make_config("bert", **keys))
    resumed.trainer.train(resume_from_checkpoint=f"{whole.config.training.output_dir}/checkpoint-{step}")
    check_same(whole, resumed)


def test_a_run_ended_by_early_stopping_is_not_trained_further(prepare_run, make_config, tmp_path):
    keys = {**SEQ_CLS, "training__save_strategy": "steps", "training__eval_strategy": "steps"}
    keys |= {"training__save_steps": 1, "training__eval_steps": 1, "training__early_stopping_patience": 1}
    keys |= {"training__early_stopping_threshold": 9.0, "training__load_best_model_at_end": True}
    whole = prepare_run(config=make_config("bert", **keys))
    whole.trainer.train()
    assert whole.trainer.state.global_step == 2
    resumed = prepare_run(config=make_config("bert", **keys))
    resumed.trainer.train(resume_from_checkpoint=f"{whole.config.training.output_dir}/checkpoint-2")
    assert resumed.trainer.state.global_step == 2


def test_skipped_batches_read_no_rows(prepare_run, make_config):
    """Skipping to the position in the data handles batches as lists of indices."""
    keys = {**SEQ_CLS, "training__save_steps": 4}
    run = prepare_run(config=make_config("bert", **keys))
    run.trainer.train()
    resumed = prepare_run(config=make_config("bert", **keys))
    collate, seen = resumed.trainer.data_collator, []

    def count(rows: Any) -> Any:
        seen.append(len(rows))
        return collate(rows)

    resumed.trainer.data_collator = count
    resumed.trainer.train(resume_from_checkpoint=f"{run.config.training.output_dir}/checkpoint-8")
    in_evaluations = sum(seen) - 2 * 8
    assert in_evaluations == 17  # steps 9 and 10 of 8 rows each, and the evaluation at the end of the epoch


def test_the_trial_of_the_longest_batch_changes_nothing(prepare_run, make_sft, tmp_path, monkeypatch):
    def configure(run: str, wanted: bool) -> Any:
        return make_sft(**{**SFT, "training__output_dir": str(tmp_path / run), "peft": LORA,
                           "training__max_steps": 2, "training__try_longest_batch": wanted})  # fmt: skip

    tried: list[int] = []
    runs = []
    monkeypatch.setattr(watchdogs, "_compute_gradients", _note(watchdogs._compute_gradients, tried))
    for name in ("tried", "not"):
        run = prepare_run(config=configure(name, name == "tried"))
        run.trainer.train()
        runs.append(run)
    lengths = sorted(runs[0].data.train["length"][:])
    assert tried == [sum(lengths[-6:])]
    check_same(*runs)


def _note(compute: Any, tried: list[int]) -> Any:
    def noting(trainer: Any, batch: dict[str, Any]) -> None:
        compute(trainer, batch)
        tried.append(int(batch["input_ids"].numel()))

    return noting
